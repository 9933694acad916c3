package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// binaries are the folders of the built programs.
type binaries struct {
	plugins    string // reference CNI plugins
	containerd string
	kubernetes string
}

// findBinaries lets the tools' Makefile build what is missing (minutes when
// nothing is there yet) and asks it where the result lies.
func findBinaries(ctx context.Context, toolsDir string) (binaries, error) {
	if toolsDir == "" {
		var err error
		if toolsDir, err = findToolsDir(); err != nil {
			return binaries{}, err
		}
	}
	if out, err := makeTool(ctx, toolsDir, "cluster"); err != nil {
		return binaries{}, fmt.Errorf("make -C %s cluster: %w\n%s", toolsDir, err, out)
	}
	out, err := makeTool(ctx, toolsDir, "print-dir")
	if err != nil {
		return binaries{}, fmt.Errorf("make -C %s print-dir: %w\n%s", toolsDir, err, out)
	}
	dirs := strings.Fields(out)
	if len(dirs) != 3 {
		return binaries{}, fmt.Errorf("make -C %s print-dir: want 3 folders, got %q", toolsDir, out)
	}
	return binaries{plugins: dirs[0], containerd: dirs[1], kubernetes: dirs[2]}, nil
}

func makeTool(ctx context.Context, dir, target string) (string, error) {
	cmd := exec.CommandContext(ctx, "make", "--silent", "--no-print-directory", "-C", dir, target)
	// A make above us must not hand its own flags and job server down.
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func findToolsDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		tools := filepath.Join(dir, "e2e", "tools")
		if _, err := os.Stat(filepath.Join(tools, "Makefile")); err == nil {
			return tools, nil
		}
	}
	return "", errors.New("e2e/tools not found above the working directory; give Options.ToolsDir")
}
