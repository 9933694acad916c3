package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestStopWhileADelegateHangs: after the time to finish, what runs is undone
// before the daemon ends, and no delegate acts after it.
func TestStopWhileADelegateHangs(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.script(t, "hang", `cat >/dev/null; test "$CNI_COMMAND" = ADD || exit 0; trap '' TERM; echo $$ > $DIR/pid; sleep 300; sleep 300`)
	b.Network("hang", `{"cniVersion":"1.0.0","type":"hang"}`)
	b.Config("delegateTimeout: 80s\n")
	b.addBinDir(t)
	b.Start()
	s, pod := b.sandbox("second,hang")
	done := make(chan node.Reply, 1)
	go func() { done <- b.Plugin("ADD", s) }()
	eventually(t, "the delegate runs", 5*time.Second, func() bool { return exists(filepath.Join(b.Dir, "pid")) })
	if err := syscall.Kill(b.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.AwaitEnd(58 * time.Second)
	if reply := <-done; reply.Err == nil {
		t.Error("the ADD succeeded")
	}
	pid, err := os.ReadFile(filepath.Join(b.Dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if exists("/proc/" + strings.TrimSpace(string(pid))) {
		t.Error("the delegate runs on after the daemon")
	}
	b.clean(t, pod)
}

// TestThinIsNotHeldUp: one container's trouble is not another's.
func TestThinIsNotHeldUp(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.script(t, "hangdel", `cat >/dev/null; if test "$CNI_COMMAND" = DEL && ! test -e $DIR/go; then touch $DIR/hangs; sleep 300; fi; echo '{"cniVersion":"1.0.0"}'`)
	b.Network("hangdel", `{"cniVersion":"1.0.0","type":"hangdel"}`)
	b.Start()
	b.Signal(syscall.SIGTERM)
	thin := map[string]any{
		"mode": "thin", "stateDir": b.Dir + "/state", "confDir": b.Dir + "/net.d", "objectsDir": b.Dir + "/objects",
	}
	path := []string{"CNI_PATH=" + b.Plugins + ":" + filepath.Join(b.Dir, "plugins") + ":" + string(binaries)}
	s, pod := b.sandbox("hangdel")
	s.Extra, s.Env = thin, path
	b.must(t, "ADD", s)
	hung := make(chan node.Reply, 1)
	go func() { hung <- b.Plugin("DEL", s) }()
	eventually(t, "the DEL hangs", 5*time.Second, func() bool { return exists(filepath.Join(b.Dir, "hangs")) })
	other, otherPod := b.sandbox("second")
	other.Extra, other.Env = thin, path
	for _, command := range []string{"STATUS", "ADD", "CHECK", "DEL"} {
		if reply := b.must(t, command, other); reply.Took > 3*time.Second {
			t.Errorf("%s of another container took %s", command, reply.Took)
		}
	}
	if err := os.WriteFile(filepath.Join(b.Dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if reply := <-hung; reply.Err == nil {
		t.Error("a DEL whose delegate hung succeeded")
	}
	b.must(t, "DEL", s)
	b.clean(t, pod, otherPod)
}

// TestOneNetworkHangs: pods without it get their networks all the same.
func TestOneNetworkHangs(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.script(t, "hang", `cat >/dev/null; test "$CNI_COMMAND" = ADD || exit 0; echo x >> $DIR/hanging; exec sleep 300`)
	b.Network("hang", `{"cniVersion":"1.0.0","type":"hang"}`)
	b.Config("delegateTimeout: 6s\nworkers: 8\n")
	b.addBinDir(t)
	b.Start()
	done := make(chan node.Reply, 12)
	for range cap(done) {
		s, _ := b.sandbox("hang")
		go func() { done <- b.Plugin("ADD", s) }()
	}
	eventually(t, "four of them hang", 5*time.Second, func() bool {
		data, err := os.ReadFile(filepath.Join(b.Dir, "hanging"))
		return err == nil && len(data) >= 8
	})
	s, pod := b.sandbox("second")
	if reply := b.must(t, "ADD", s); reply.Took > 3*time.Second {
		t.Errorf("a pod without the broken network waited %s", reply.Took)
	}
	b.must(t, "DEL", s)
	for range cap(done) {
		if reply := <-done; reply.Err == nil {
			t.Error("an ADD with a network that hangs succeeded")
		}
	}
	b.clean(t, pod)
}

// TestReadOnlyDisk: the daemon runs on and says what is wrong, and works as
// soon as it can.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	state := filepath.Join(b.Dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	b.Start()
	s, pod := b.sandbox("second")
	b.must(t, "ADD", s)
	b.Signal(syscall.SIGTERM)
	if err := syscall.Mount("", state, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	b.StartWithin(0)
	eventually(t, "STATUS says why", 5*time.Second, func() bool {
		reply := b.Plugin("STATUS", node.Sandbox{})
		return reply.Code() == 50 && strings.Contains(reply.Err.Error(), state) && strings.Contains(reply.Err.Error(), "read-only")
	})
	b.wantError(t, "DEL", s, 11, "read-only")
	if b.Ended() {
		t.Fatal("the daemon ended")
	}
	if err := syscall.Mount("", state, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon works again", 15*time.Second, func() bool { return b.Plugin("STATUS", node.Sandbox{}).Err == nil })
	b.must(t, "DEL", s)
	b.clean(t, pod)
}

// TestNoSocketNoConf: a daemon that can't listen doesn't tell the runtime to
// use it.
func TestNoSocketNoConf(t *testing.T) {
	b := newBed(t)
	if err := os.WriteFile(filepath.Join(b.Dir, "run"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.StartWithin(0)
	b.AwaitEnd(5 * time.Second)
	if exists(filepath.Join(b.Dir, "net.d", "00-meta.conf")) {
		t.Error("00-meta.conf is there and nobody listens")
	}
	if !strings.Contains(b.Log(), filepath.Join(b.Dir, "run")) {
		t.Errorf("the daemon doesn't say why it ended: %s", b.Log())
	}
}
