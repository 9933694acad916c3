package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// daemonMain is a daemon that runs one verb of the plugin "one" in the folder
// of its environment. Threads come and go meanwhile, as in a busy daemon.
func daemonMain(verb string) int {
	bin := os.Getenv("EXEC_TEST_BIN")
	r := New(Options{CacheDir: bin + "/cache"})
	conf := []byte(list("1.1.0", does(verb, behaviour{Do: "hang"})))
	call := Call{Netns: "/run/netns/x", Plan: &attach.Plan{
		Key: attach.Key{ContainerID: "c1", IfName: "eth0"}, Path: []string{bin},
		Delegates: []attach.Delegate{{Network: "net", Conf: conf, IfName: "eth0"}},
	}}
	ctx := context.Background()
	switch verb {
	case "ADD":
		_, _ = r.Add(ctx, call)
	case "DEL":
		_ = r.Del(ctx, call)
	case "CHECK":
		_ = r.Check(ctx, call)
	case "STATUS":
		_ = r.Status(ctx, conf, call.Plan.Path)
	case "GC":
		_ = r.GC(ctx, conf, call.Plan.Path, nil)
	}
	return 3
}

// A daemon that is killed takes its plugins along, also those that the journal
// doesn't know.
func TestNoneOutlivesAKilledDaemon(t *testing.T) {
	for _, verb := range []string{"ADD", "DEL", "CHECK", "STATUS", "GC"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			self, err := os.Executable()
			b.must(err)
			daemon := osexec.Command(self)
			daemon.Env = append(os.Environ(), "EXEC_TEST_DAEMON="+verb, "EXEC_TEST_BIN="+b.bin)
			b.must(daemon.Start())
			defer func() { _, _ = daemon.Process.Kill(), daemon.Wait() }()
			await(t, "the plugin has its configuration", func() bool { return len(b.calls()) > 0 })
			pid := b.calls()[0].Pid
			defer func() {
				if t.Failed() {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}()
			if !runs(pid) {
				t.Fatal("the plugin ended by itself")
			}
			b.must(daemon.Process.Kill())
			_ = daemon.Wait()
			await(t, "the plugin is gone", func() bool { return !runs(pid) })
		})
	}
}

// The plugin lives as long as its call, whatever becomes of the thread that the
// call came from: to the kernel that thread is the parent.
func TestThreadsThatEndHarmNoPlugin(t *testing.T) {
	b := newBench(t, nil)
	writeScript(t, b.path("slow"), "cat >/dev/null; sleep 0.5; echo '{\"cniVersion\":\"1.0.0\"}'")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := b.Add(t.Context(), b.call(list("1.0.0", `"type":"slow"`))); err != nil {
				t.Error(err)
			}
		})
	}
	for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); {
		done := make(chan struct{})
		go func() { // ends its thread
			runtime.LockOSThread()
			close(done)
		}()
		<-done
	}
	group.Wait()
}

// Whatever a plugin does, the call is over when its deadline comes: asking and
// killing take place before.
func TestOverAtTheDeadline(t *testing.T) {
	for _, tt := range []struct {
		do     string
		budget time.Duration
	}{
		{"hang for ever", 4 * time.Second},
		{"hang for ever", 300 * time.Millisecond},
		{"tidy up", 4 * time.Second},
	} {
		for _, verb := range []string{"ADD", "DEL"} {
			t.Run(fmt.Sprint(verb, " ", tt.do, " ", tt.budget), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, nil)
				ctx, cancel := context.WithTimeout(t.Context(), tt.budget)
				defer cancel()
				deadline, _ := ctx.Deadline()
				call := b.call(list("1.0.0", does(verb, behaviour{Do: tt.do, Print: `{"cniVersion":"1.0.0"}`})))
				var err error
				if verb == "ADD" {
					_, err = b.Add(ctx, call)
				} else {
					err = b.Del(ctx, call)
				}
				if late := time.Since(deadline); late > 500*time.Millisecond {
					t.Errorf("%v late: %v", late, err)
				}
				wantError(t, err, types.ErrTryAgainLater, "did not finish in time")
				if tt.do == "tidy up" && !exists(b.path("tidied")) {
					t.Error("the plugin was not asked first")
				}
				for _, c := range b.calls() {
					if runs(c.Pid) {
						t.Errorf("%s still runs", c.Command)
					}
				}
			})
		}
	}
}

// Nothing is begun when the time is over.
func TestNothingAfterTheDeadline(t *testing.T) {
	b := newBench(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	call := b.call(list("1.1.0", `"type":"one"`))
	_, added := b.Add(ctx, call)
	for verb, err := range map[string]error{
		"ADD": added, "DEL": b.Del(ctx, call), "CHECK": b.Check(ctx, call), "GC": b.GC(ctx, call.delegate().Conf, call.Plan.Path, nil),
	} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if got := b.calls(); got != nil {
		t.Errorf("called: %v", got)
	}
}

// STATUS answers at its deadline, and its plugin is gone soon after.
func TestStatusReturnsInTime(t *testing.T) {
	b := newBench(t, nil)
	conf := []byte(list("1.1.0", does("STATUS", behaviour{Do: "hang for ever"})))
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan time.Time, 1)
	go func() {
		b.child()
		ended <- time.Now()
		cancel(context.DeadlineExceeded)
	}()
	err := b.Status(ctx, conf, []string{b.bin})
	if took := time.Since(<-ended); took > 100*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v after the end: %v", took, err)
	}
	await(t, "nothing of it is left", func() bool { return !runs(b.calls()[0].Pid) && !runs(b.child()) })
}

// Where the cache can't be used every verb works, and DEL and CHECK show the
// journal's result.
func TestCacheThatCannotBeUsed(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(b *bench)
	}{
		{"a file in its place", func(b *bench) { b.must(os.Remove(b.cache)); b.must(os.WriteFile(b.cache, nil, 0o600)) }},
		{"read-only", func(b *bench) { mount(b, unix.MS_RDONLY, "") }},
		{"full", func(b *bench) { mount(b, 0, "nr_inodes=1") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			tt.prepare(b)
			call := b.call(list("1.0.0", `"type":"one"`))
			result, err := b.Add(t.Context(), call)
			if err != nil {
				t.Fatal("ADD:", err)
			}
			if err := b.Check(t.Context(), call); err != nil {
				t.Error("CHECK without a result:", err)
			}
			call.Previous = result
			if err := b.Check(t.Context(), call); err != nil {
				t.Error("CHECK:", err)
			}
			if err := b.Del(t.Context(), call); err != nil {
				t.Fatal("DEL:", err)
			}
			for i, want := range []string{"null", "null", `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]}`, `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]}`} {
				wantJSON(t, "prevResult", want, keyOf(t, b.calls()[i].Stdin, "prevResult"))
			}
		})
	}
}

// mount puts a file system in place of the cache.
func mount(b *bench, flags uintptr, options string) {
	b.Helper()
	b.must(unix.Mount("tmpfs", b.cache, "tmpfs", flags, options))
	b.Cleanup(func() { _ = unix.Unmount(b.cache, unix.MNT_DETACH) })
}

// An entry that was being written when the daemon was killed is none, and goes
// with the set.
func TestHalfAnEntry(t *testing.T) {
	b := newBench(t, nil)
	call := b.call(list("1.0.0", `"type":"one"`))
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	dir := b.cache + "/c1@eth0/results"
	b.must(os.WriteFile(dir+"/%eth0", []byte(`{"kind"`), 0o600))
	if got, err := b.Remembered(call.Plan.Key); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	b.must(b.Del(t.Context(), call))
	if exists(b.cache + "/c1@eth0") {
		t.Error("the set's folder is left")
	}
}

// GC asks every plugin and nothing else: what is attached is the journal's
// business. A plugin that fails doesn't stop the next.
func TestGCTouchesNoAttachment(t *testing.T) {
	b := newBench(t, nil)
	conf := list("1.1.0", does("GC", behaviour{Exit: 1, Print: `{"code":11,"msg":"later"}`}), `"type":"none"`, `"type":"two"`)
	call := b.call(list("1.1.0", `"type":"one"`))
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	err := b.GC(t.Context(), []byte(conf), []string{b.bin}, nil)
	wantError(t, err, 11, "later")
	wantError(t, err, 11, `plugin "none" not found`)
	var got []string
	for _, c := range b.calls() {
		got = append(got, c.Command+" "+c.Plugin)
	}
	if strings.Join(got, ", ") != "ADD one, GC one, GC two" {
		t.Errorf("calls: %v", got)
	}
	wantJSON(t, "valid attachments", `[]`, keyOf(t, b.calls()[2].Stdin, "cni.dev/valid-attachments"))
	if left, err := b.Remembered(call.Plan.Key); err != nil || len(left) != 1 {
		t.Errorf("remembered: %v, %v", left, err)
	}
}

// A list that is too old for GC, or refuses it, isn't asked.
func TestGCThatIsNotAsked(t *testing.T) {
	b := newBench(t, nil)
	for _, conf := range []string{
		list("1.0.0", `"type":"one"`), `{"cniVersion":"1.1.0","name":"net","disableGC":true,"plugins":[{"type":"one"}]}`,
	} {
		if err := b.GC(t.Context(), []byte(conf), []string{b.bin}, nil); err != nil {
			t.Error(err)
		}
	}
	if got := b.calls(); got != nil {
		t.Errorf("called: %v", got)
	}
}

// A plugin that moved since ADD is found in the further folders, and finds its
// own helpers there.
func TestPluginThatMoved(t *testing.T) {
	b := newBench(t, nil)
	call := b.call(list("1.0.0", `"type":"one"`))
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	call.Plan.Path = []string{"/was/here"}
	wantError(t, b.Del(t.Context(), call), types.ErrInvalidNetworkConfig, "not found in /was/here")
	call.FurtherPath = []string{b.bin, "/was/here"}
	if err := b.Del(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if got := b.calls()[1].Env["CNI_PATH"]; got != "/was/here:"+b.bin {
		t.Errorf("CNI_PATH is %s", got)
	}
}

// Multus and others accept a plugin that prints nothing; in a list it adds
// nothing to the result.
func TestPluginThatPrintsNothing(t *testing.T) {
	silent := does("ADD", behaviour{Print: "\n"})
	tests := []struct {
		name    string
		plugins []string
		want    string
	}{
		{"alone", []string{silent}, `{"cniVersion":"1.1.0"}`},
		{"last", []string{`"type":"two"`, silent}, `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}]}`},
		{"between", []string{`"type":"two"`, silent, does("ADD", behaviour{Print: `{"interfaces":[{"name":"x"}]}`})}, `{"cniVersion":"1.1.0","interfaces":[{"name":"x"}]}`},
		{"null", []string{does("ADD", behaviour{Print: "null"})}, `{"cniVersion":"1.1.0"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			got, err := b.Add(t.Context(), b.call(list("1.0.0", tt.plugins...)))
			if err != nil {
				t.Fatal(err)
			}
			wantJSON(t, "result", tt.want, string(got))
			calls := b.calls()
			if len(calls) == 3 {
				wantJSON(t, "prevResult", `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]}`, keyOf(t, calls[2].Stdin, "prevResult"))
			}
		})
	}
}
