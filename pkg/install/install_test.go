package install

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// source makes a folder with a plugin of that content.
func source(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, Plugin), content, 0o600)
	return dir
}

func write(t *testing.T, path, content string, perm fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		t.Fatal(err)
	}
}

func installer(out *bytes.Buffer) Installer {
	return Installer{Names: Names(), Log: slog.New(slog.NewTextHandler(out, nil))}
}

// listing shows each entry of a folder as mode, name and content or target.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	lines := make([]string, 0, len(entries))
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, entry.Name())
		if target, err := os.Readlink(path); err == nil {
			lines = append(lines, entry.Name()+" -> "+target)
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, info.Mode().String()+" "+entry.Name()+" "+string(content))
	}
	return lines
}

func TestBinaries(t *testing.T) {
	want := []string{
		"-rwxr-xr-x meta-cni new",
		"meta-ipam -> meta-cni",
		"meta-routed -> meta-cni",
		"meta-vxlan -> meta-cni",
	}
	for name, before := range map[string]func(t *testing.T, dir string){
		"empty folder":  func(*testing.T, string) {},
		"older plugin":  func(t *testing.T, dir string) { write(t, filepath.Join(dir, Plugin), "old", 0o755) },
		"same size":     func(t *testing.T, dir string) { write(t, filepath.Join(dir, Plugin), "neu", 0o755) },
		"setuid":        func(t *testing.T, dir string) { write(t, filepath.Join(dir, Plugin), "new", 0o755|fs.ModeSetuid) },
		"not for all":   func(t *testing.T, dir string) { write(t, filepath.Join(dir, Plugin), "new", 0o700) },
		"file for link": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "meta-ipam"), "other", 0o755) },
		"wrong link": func(t *testing.T, dir string) {
			if err := os.Symlink("elsewhere", filepath.Join(dir, "meta-vxlan")); err != nil {
				t.Fatal(err)
			}
		},
		"link for plugin": func(t *testing.T, dir string) {
			if err := os.Symlink("/bin/sh", filepath.Join(dir, Plugin)); err != nil {
				t.Fatal(err)
			}
		},
		"rest of a killed installer": func(t *testing.T, dir string) {
			path := filepath.Join(dir, ".meta-cni-123.tmp")
			write(t, path, "half", 0o600)
			old := time.Now().Add(-2 * tempAge)
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			before(t, dir)
			var out bytes.Buffer
			if err := installer(&out).Binaries(t.Context(), source(t, "new"), []string{dir}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, listing(t, dir)); diff != "" {
				t.Errorf("folder (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBinariesTwiceChangesNothing(t *testing.T) {
	src, dir := source(t, "new"), filepath.Join(t.TempDir(), "opt", "cni", "bin")
	var out bytes.Buffer
	if err := installer(&out).Binaries(t.Context(), src, []string{dir}); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(filepath.Join(dir, Plugin))
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := installer(&out).Binaries(t.Context(), src, []string{dir}); err != nil {
		t.Fatal(err)
	}
	second, err := os.Stat(filepath.Join(dir, Plugin))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(first, second) {
		t.Error("the plugin was replaced although it was the same")
	}
	if out.Len() > 0 {
		t.Errorf("said that it changed something: %s", &out)
	}
}

func TestBinariesKeepsAnotherInstallersWork(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, ".meta-cni-9.tmp"), "at work", 0o600)
	var out bytes.Buffer
	if err := installer(&out).Binaries(t.Context(), source(t, "new"), []string{dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".meta-cni-9.tmp")); err != nil {
		t.Error(err)
	}
}

func TestBinariesRefuses(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	good := source(t, "new")
	for name, tc := range map[string]struct {
		ctx     context.Context
		src     string
		folders []string
		names   []string
		want    string
	}{
		"no folder":      {t.Context(), good, nil, nil, "no plugin folder given"},
		"no plugin":      {t.Context(), t.TempDir(), []string{t.TempDir()}, nil, "read the plugin"},
		"empty plugin":   {t.Context(), source(t, ""), []string{t.TempDir()}, nil, "is empty"},
		"name with path": {t.Context(), good, []string{t.TempDir()}, []string{"../sh"}, `"../sh" can't be a further name`},
		"own name":       {t.Context(), good, []string{t.TempDir()}, []string{Plugin}, "can't be a further name"},
		"ended":          {ended, good, []string{t.TempDir()}, nil, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			in := Installer{Names: tc.names, Log: slog.New(slog.DiscardHandler)}
			err := in.Binaries(tc.ctx, tc.src, tc.folders)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestBinariesServesTheOtherFolders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "not a folder", 0o644)
	dir := t.TempDir()
	var out bytes.Buffer
	err := installer(&out).Binaries(t.Context(), source(t, "new"), []string{file, dir})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error = %v, want one that names %s", err, file)
	}
	if got := len(listing(t, dir)); got != 4 {
		t.Errorf("%d entries in the good folder, want 4", got)
	}
}

// TestBinariesFullDisk: on a disk without room for the new plugin, the old
// one stays whole and no half file is left (fault F19 for the installer).
func TestBinariesFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs in a private mount namespace")
	}
	src, dir := source(t, strings.Repeat("n", 1<<20)), t.TempDir()
	type outcome struct {
		err     error
		listing []string
	}
	done := make(chan outcome)
	go func() {
		runtime.LockOSThread() // the thread ends with its mount namespace
		var got outcome
		defer func() { done <- got }()
		if got.err = mountSmall(dir); got.err != nil {
			return
		}
		write(t, filepath.Join(dir, Plugin), "old", 0o755)
		var out bytes.Buffer
		got.err = installer(&out).Binaries(t.Context(), src, []string{dir})
		got.listing = listing(t, dir)
	}()
	got := <-done
	if !errors.Is(got.err, unix.ENOSPC) {
		t.Fatalf("error = %v, want %v", got.err, unix.ENOSPC)
	}
	if diff := cmp.Diff([]string{"-rwxr-xr-x meta-cni old"}, got.listing); diff != "" {
		t.Errorf("folder (-want +got):\n%s", diff)
	}
}

func mountSmall(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")
}

// TestBinariesWhileRunning replaces the plugin again and again while another
// process runs it without a pause (fault F26): no run may fail.
func TestBinariesWhileRunning(t *testing.T) {
	one, two := realProgram(t, "true"), realProgram(t, "echo")
	dir := t.TempDir()
	in := Installer{Log: slog.New(slog.DiscardHandler)}
	if err := in.Binaries(t.Context(), one, []string{dir}); err != nil {
		t.Fatal(err)
	}
	// The runner is a process of its own, started before the installs: a child
	// forked in between would hold a copy of the open temporary file.
	stop := filepath.Join(t.TempDir(), "stop")
	runner := exec.CommandContext(t.Context(), "/bin/sh", "-c",
		`runs=0; while [ ! -e "$2" ]; do "$1" >/dev/null || exit 1; runs=$((runs+1)); done; echo $runs`,
		"runner", filepath.Join(dir, Plugin), stop)
	var out, errOut bytes.Buffer
	runner.Stdout, runner.Stderr = &out, &errOut
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		src := two
		if i%2 == 1 {
			src = one
		}
		if err := in.Binaries(t.Context(), src, []string{dir}); err != nil {
			t.Error(err)
		}
	}
	write(t, stop, "", 0o600)
	if err := runner.Wait(); err != nil {
		t.Fatalf("a run of the plugin failed: %v\n%s", err, &errOut)
	}
	t.Logf("%s runs during 100 replacements", strings.TrimSpace(out.String()))
}

// realProgram makes a folder in which the plugin is a copy of a program of
// the machine: only a real executable can be "busy".
func realProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return source(t, string(content))
}
