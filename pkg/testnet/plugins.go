package testnet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// PluginDirEnv names a folder of the reference CNI plugins that is used as it
// is.
const PluginDirEnv = "META_CNI_PLUGIN_DIR"

// PluginDir is a folder with the reference CNI plugins. They are built by
// e2e/tools and cached, unless PluginDirEnv is set.
func PluginDir(tb TB) string {
	tb.Helper()
	if dir := os.Getenv(PluginDirEnv); dir != "" {
		return dir
	}
	tools, err := toolsDir()
	if err != nil {
		tb.Fatalf("reference CNI plugins: %v", err)
	}
	if _, err := makeTarget(tb.Context(), tools, "plugins"); err != nil {
		tb.Fatalf("build the reference CNI plugins: %v", err)
	}
	dir, err := makeTarget(tb.Context(), tools, "print-plugins-dir")
	if err != nil {
		tb.Fatalf("find the reference CNI plugins: %v", err)
	}
	return strings.TrimSpace(dir)
}

func makeTarget(ctx context.Context, dir, target string) (string, error) {
	cmd := exec.CommandContext(ctx, "make", "-s", "-C", dir, target)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("make -C %s %s: %w: %s", dir, target, err, stderr.String())
	}
	return string(out), nil
}

// toolsDir looks for e2e/tools from the working folder upwards: tests run in
// their package's folder.
func toolsDir() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := here; ; at = filepath.Dir(at) {
		tools := filepath.Join(at, "e2e", "tools")
		if _, err := os.Stat(filepath.Join(tools, "Makefile")); err == nil {
			return tools, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no e2e/tools/Makefile in %s or above it", here)
		}
	}
}
