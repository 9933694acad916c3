// Command build makes the container image of meta-cni without a container
// engine: it compiles the programs and writes an OCI image layout as one tar
// file, which `ctr images import`, `podman load` and `skopeo` read.
//
//	go run ./images/build -o meta-cni.tar [-arch arm64] [-name localhost/meta-cni:dev]
//
// The image is built from nothing: it holds the daemon, the plugin that the
// daemon installs on the node, the controller, metactl (for kubectl exec), and
// the few names that a Linux root folder must have. The same sources and the
// same Go give the same bytes; the environment variable SOURCE_DATE_EPOCH
// (seconds) sets the dates in it, else they are 0.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

// module is the path of the programs' module.
const module = "github.com/meta-cni/meta-cni"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	out := flag.String("o", "", "tar file to write")
	arch := flag.String("arch", runtime.GOARCH, "processor architecture, as Go names it")
	name := flag.String("name", "localhost/meta-cni:dev", "name under which the image is imported")
	flag.Parse()
	if err := run(ctx, *out, *arch, *name); err != nil {
		fmt.Fprintln(os.Stderr, "build image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, arch, name string) error {
	if out == "" {
		return errors.New("no output file; give one with -o")
	}
	date, err := sourceDate(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	programs, err := compile(ctx, arch)
	if err != nil {
		return err
	}
	archive, err := image{name: name, arch: arch, date: date, layers: layers(programs)}.archive()
	if err != nil {
		return err
	}
	return writeFile(out, archive)
}

// sourceDate reads SOURCE_DATE_EPOCH (reproducible-builds.org); empty is 0.
func sourceDate(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// programs are the contents of the image's executables.
type programs struct{ daemon, plugin, controller, metactl []byte }

func compile(ctx context.Context, arch string) (programs, error) {
	dir, err := os.MkdirTemp("", "meta-cni-image-")
	if err != nil {
		return programs{}, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder that stays harms nobody
	var p programs
	if p.plugin, err = compileOne(ctx, dir, arch, "meta-cni"); err != nil {
		return programs{}, err
	}
	if p.daemon, err = compileOne(ctx, dir, arch, "meta-cnid"); err != nil {
		return programs{}, err
	}
	if p.controller, err = compileOne(ctx, dir, arch, "meta-cni-controller"); err != nil {
		return programs{}, err
	}
	if p.metactl, err = compileOne(ctx, dir, arch, "metactl"); err != nil {
		return programs{}, err
	}
	return p, nil
}

func compileOne(ctx context.Context, dir, arch, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid=", "-o", path, module+"/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile %s for %s: %w\n%s", name, arch, err, text)
	}
	return os.ReadFile(path)
}

// writeFile replaces path as a whole.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp := path + ".tmp"
	if err := os.WriteFile(temp, content, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
