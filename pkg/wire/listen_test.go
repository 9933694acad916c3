package wire

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenTakesThePlaceOfWhatIsThere(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(socket string) error
	}{
		{"nothing", func(string) error { return nil }},
		{"a file", func(socket string) error { return os.WriteFile(socket, []byte("x"), 0o644) }},
		{"a stale socket", func(socket string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		}},
		{"a symbolic link", func(socket string) error { return os.Symlink("/nowhere", socket) }},
		{"what a killed daemon left beside", func(socket string) error { return os.WriteFile(socket+".new", nil, 0o600) }},
		{"a folder open to others", func(socket string) error { return os.Chmod(filepath.Dir(socket), 0o755) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := socketPath(t)
			if err := errors.Join(os.MkdirAll(filepath.Dir(socket), 0o700), test.prepare(socket)); err != nil {
				t.Fatal(err)
			}
			l, err := Listen(socket)
			if err != nil {
				t.Fatal(err)
			}
			r := startOn(t, &Server{Handler: HandlerFunc(echo)}, socket, l)
			if _, err := Do(within(t), r.socket, add("c1")); err != nil {
				t.Error(err)
			}
			for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
				if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != want {
					t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
				}
			}
		})
	}
}

func TestListenRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(socket string) error
	}{
		{"a folder of that name", func(socket string) error { return os.MkdirAll(filepath.Join(socket, "x"), 0o700) }},
		{"a link instead of its folder", func(socket string) error { return os.Symlink("/tmp", filepath.Dir(socket)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := socketPath(t)
			if err := test.prepare(socket); err != nil {
				t.Fatal(err)
			}
			l, err := Listen(socket)
			if err == nil {
				_ = l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), filepath.Dir(socket)) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 110))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("got %v", err)
	}
}

// A folder that holds other folders is somebody else's, like /run.
func TestListenLeavesASharedFolderAsItIs(t *testing.T) {
	socket := socketPath(t)
	dir := filepath.Dir(socket)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "other"), 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Error(info.Mode(), err)
	}
}

// A successor takes over while the old daemon still answers what it has taken.
func TestListenTakesOverFromALiveDaemon(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	before := start(t, &Server{Handler: HandlerFunc(func(_ context.Context, _ *Request, reply func(*Reply) error) {
		close(begun)
		<-release
		_ = reply(&Reply{Error: &Error{Msg: "before"}})
	})})
	answers := make(chan string, 1)
	go func() {
		reply, err := Do(within(t), before.socket, add("c1"))
		if err != nil {
			answers <- err.Error()
			return
		}
		answers <- reply.Error.Msg
	}()
	<-begun
	l, err := Listen(before.socket)
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, &Server{Handler: HandlerFunc(echo)}, before.socket, l)
	if reply, err := Do(within(t), before.socket, add("c2")); err != nil || reply.Error != nil {
		t.Error("successor:", reply, err)
	}
	close(release)
	if got := <-answers; got != "before" {
		t.Error(got)
	}
}
