package testnet_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/testnet"
)

func TestSwitchConnectsHosts(t *testing.T) {
	world := testnet.New(t)
	lan := world.Switch("lan")
	a, b := world.Host("a"), world.Host("b")
	lan.Plug(a, "eth0", "192.0.2.1/24", "2001:db8::1/64")
	lan.Plug(b, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()

	for _, to := range []string{"192.0.2.2", "2001:db8::2"} {
		addr := netip.MustParseAddr(to)
		if err := a.Ping(ctx, addr); err != nil {
			t.Errorf("ping: %v", err)
		}
		at := netip.AddrPortFrom(addr, 7)
		b.Answer(at, "this is b")
		if got, err := a.Ask(ctx, at); got != "this is b" {
			t.Errorf("Ask(%s) = %q, %v", at, got, err)
		}
	}
	if !a.IsUp("eth0") {
		t.Error("eth0 of a is not up")
	}
}

func TestPingFailsWithoutTarget(t *testing.T) {
	world := testnet.New(t)
	lan := world.Switch("lan")
	a := world.Host("a")
	lan.Plug(a, "eth0", "192.0.2.1/24")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()

	for _, to := range []string{"192.0.2.2", "198.51.100.1"} {
		if err := a.Ping(ctx, netip.MustParseAddr(to)); err == nil {
			t.Errorf("Ping(%s) was answered", to)
		}
	}
}

func TestProgramsRunInTheHost(t *testing.T) {
	world := testnet.New(t)
	a := world.Host("a")
	out, err := a.Run(t.Context(), "readlink", "/proc/self/ns/net")
	if want := fmt.Sprintf("net:[%d]\n", a.ID().Inode); err != nil || out != want {
		t.Errorf("Run = %q, %v, want %q", out, err, want)
	}
	if out, err := a.Run(t.Context(), "false"); err == nil {
		t.Errorf("Run(false) = %q, no error", out)
	}

	ended := a.Start(exec.Command("true"))
	if err := <-ended; err != nil {
		t.Errorf("Start: %v", err)
	}
}

// world is a testing.TB whose cleanups run when the test says so.
type lifetime struct {
	*testing.T
	cleanups []func()
}

func (l *lifetime) Cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

func (l *lifetime) end() {
	for i := len(l.cleanups) - 1; i >= 0; i-- {
		l.cleanups[i]()
	}
}

func TestNothingIsLeft(t *testing.T) {
	life := &lifetime{T: t}
	world := testnet.New(life)
	a := world.Host("a")
	sleeper := exec.Command("sleep", "1000")
	ended := a.Start(sleeper)
	removed := world.Host("removed")
	removed.Remove()
	life.end()

	if err := <-ended; err == nil {
		t.Error("the program ended without being killed")
	}
	for _, path := range []string{a.Path(), removed.Path()} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
}

func TestLeftoversOfDeadProcessesAreRemoved(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	live := testnet.New(t).Host("live")
	leftover := filepath.Join("/run/netns", fmt.Sprintf("mcni-%d-1-XXXXXX-a", dead.Process.Pid))
	reused := filepath.Join("/run/netns", fmt.Sprintf("mcni-%d-1-XXXXXX-a", os.Getpid()))
	foreign := filepath.Join("/run/netns", "foreign-"+strings.ToLower(t.Name()))
	for _, path := range []string{leftover, reused, foreign} {
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
	}

	testnet.New(t)

	for path, want := range map[string]bool{leftover: false, reused: false, foreign: true, live.Path(): true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s exists: %v, want %v", path, err == nil, want)
		}
	}
}

func TestPluginDirIsTakenFromTheEnvironment(t *testing.T) {
	t.Setenv(testnet.PluginDirEnv, "/some/folder")
	if got := testnet.PluginDir(t); got != "/some/folder" {
		t.Errorf("PluginDir = %q", got)
	}
}

func TestPluginDirHasThePlugins(t *testing.T) {
	t.Setenv(testnet.PluginDirEnv, "")
	for _, name := range []string{"bridge", "macvlan", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join(testnet.PluginDir(t), name)); err != nil {
			t.Error(err)
		}
	}
}
