package exec

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/journal"
)

func TestRefusedBinaries(t *testing.T) {
	tests := []struct {
		name, plugin string
		make         func(b *bench)
		want         string
	}{
		{"missing", "none", func(*bench) {}, `plugin "none" not found in BIN, /also/here; install the plugin's binary`},
		{"no execute bit", "p", func(b *bench) { b.copyPlugin("p"); b.must(os.Chmod(b.path("p"), 0o644)) }, "plugin BIN/p is not executable"},
		{"world-writable", "p", func(b *bench) { b.copyPlugin("p"); b.must(os.Chmod(b.path("p"), 0o757)) }, "plugin BIN/p can be written by anybody"},
		{"group-writable", "p", func(b *bench) {
			b.copyPlugin("p")
			b.must(os.Chown(b.path("p"), 0, 1234))
			b.must(os.Chmod(b.path("p"), 0o775))
		}, "plugin BIN/p can be written by group 1234"},
		{"of another user", "p", func(b *bench) { b.copyPlugin("p"); b.must(os.Chown(b.path("p"), 1234, 0)) }, "plugin BIN/p belongs to user 1234"},
		{"folder", "p", func(b *bench) { b.must(os.Mkdir(b.path("p"), 0o755)) }, "plugin BIN/p is not a regular file"},
		{"pipe", "p", func(b *bench) { b.must(syscall.Mkfifo(b.path("p"), 0o755)) }, "plugin BIN/p is not a regular file"},
		{"link to a folder", "p", func(b *bench) { b.must(os.Symlink("/", b.path("p"))) }, "plugin BIN/p is not a regular file"},
		{"dangling link", "p", func(b *bench) { b.must(os.Symlink("nowhere", b.path("p"))) }, `plugin "p" not found in BIN`},
		{"path", "../../bin/sh", func(*bench) {}, `plugin type "../../bin/sh" is not a file name`},
		{"parent", "..", func(*bench) {}, "is not a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			tt.make(b)
			call := b.call(list("1.0.0", `"type":"`+tt.plugin+`"`))
			call.Plan.Path = []string{b.bin, "/also/here"}
			want := strings.ReplaceAll(tt.want, "BIN", b.bin)
			_, err := b.Add(t.Context(), call)
			wantError(t, err, types.ErrInvalidNetworkConfig, want)
			wantError(t, b.Del(t.Context(), call), types.ErrInvalidNetworkConfig, want)
		})
	}
}

// The first folder that has the name decides, as for a runtime.
func TestSearchPath(t *testing.T) {
	b := newBench(t, nil)
	second := t.TempDir()
	writeScript(t, filepath.Join(second, "one"), "exit 99")
	call := b.call(list("1.0.0", `"type":"one"`))
	call.Plan.Path = []string{b.path("none"), b.bin, second}
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Error(err)
	}
	call.Plan.Path = []string{second, b.bin}
	_, err := b.Add(t.Context(), call)
	wantError(t, err, types.ErrInternal, "exit status 99")
	call.Plan.Path = nil
	_, err = b.Add(t.Context(), call)
	wantError(t, err, types.ErrInvalidNetworkConfig, `plugin "one" not found: CNI_PATH names no folder`)
}

// While a binary is being written it can't be run (ETXTBSY); it is tried again
// by a new process, since an exec.Cmd can't be started twice (multus#1213).
func TestBusyBinary(t *testing.T) {
	b := newBench(t, nil)
	b.copyPlugin("busy")
	writer, err := os.OpenFile(b.path("busy"), os.O_RDWR, 0)
	b.must(err)
	started := 0
	call := b.call(list("1.0.0", `"type":"busy"`))
	call.Started = func(*journal.Process) error { started++; return nil }
	timer := time.AfterFunc(100*time.Millisecond, func() { _ = writer.Close() })
	defer timer.Stop()
	if _, err := b.Add(t.Context(), call); err != nil || started != 1 {
		t.Errorf("ADD: %v, %d processes were reported", err, started)
	}
}

func TestBusyBinaryForEver(t *testing.T) {
	b := newBench(t, nil)
	b.copyPlugin("busy")
	writer, err := os.OpenFile(b.path("busy"), os.O_RDWR, 0)
	b.must(err)
	defer writer.Close()
	call := b.call(list("1.0.0", `"type":"busy"`))
	_, err = b.Add(t.Context(), call)
	if !errors.Is(err, syscall.ETXTBSY) {
		t.Errorf("error %v, want ETXTBSY", err)
	}
	ctx, end := context.WithCancelCause(t.Context())
	end(errors.New("the runtime hung up"))
	start := time.Now()
	if _, err := b.Add(ctx, call); err == nil || time.Since(start) > 10*time.Millisecond*busyTries {
		t.Errorf("with an ended context: %v after %v", err, time.Since(start))
	}
}

// A dynamically linked plugin whose loader is absent fails with ENOENT, which
// looks as if the plugin itself were missing.
func TestAbsentLoader(t *testing.T) {
	b := newBench(t, nil)
	b.must(os.WriteFile(b.path("dynamic"), dynamicWithLoader(t, "/nowhere/ld.so"), 0o755))
	_, err := b.Add(t.Context(), b.call(list("1.0.0", `"type":"dynamic"`)))
	wantError(t, err, types.ErrInvalidNetworkConfig, "plugin "+b.path("dynamic")+" needs the loader /nowhere/ld.so, which isn't here; it is dynamically linked or a script")

	writeScript(t, b.path("script"), "exit 0")
	b.must(os.WriteFile(b.path("script"), []byte("#!/nowhere/sh -e\n"), 0o755))
	_, err = b.Add(t.Context(), b.call(list("1.0.0", `"type":"script"`)))
	wantError(t, err, types.ErrInvalidNetworkConfig, "plugin "+b.path("script")+" needs the loader /nowhere/sh, which isn't here")
}

func TestNoProgram(t *testing.T) {
	b := newBench(t, nil)
	b.must(os.WriteFile(b.path("text"), []byte("half a download"), 0o755))
	_, err := b.Add(t.Context(), b.call(list("1.0.0", `"type":"text"`)))
	if !errors.Is(err, syscall.ENOEXEC) || !strings.Contains(err.Error(), b.path("text")) {
		t.Errorf("error %v, want ENOEXEC with the path", err)
	}
}

// dynamicWithLoader is a dynamically linked program of this machine that asks
// for another loader.
func dynamicWithLoader(t *testing.T, loader string) []byte {
	t.Helper()
	sleep, err := osexec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz > uint64(len(loader)) {
			name := data[p.Off : p.Off+p.Filesz]
			clear(name)
			copy(name, loader)
			return data
		}
	}
	t.Fatalf("%s isn't dynamically linked", sleep)
	return nil
}

// One that is missing fails the ADD before the others of its list ran.
func TestAllPluginsAreFoundFirst(t *testing.T) {
	b := newBench(t, nil)
	_, err := b.Add(t.Context(), b.call(list("1.0.0", `"type":"one"`, `"type":"none"`)))
	wantError(t, err, types.ErrInvalidNetworkConfig, `plugin "none" not found in`)
	if exists(b.path("running-one")) {
		t.Error("the first plugin was run")
	}
}
