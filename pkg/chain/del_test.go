package chain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/testnet"
)

func TestDel(t *testing.T) {
	r := newRig(t)
	set := r.added(3, "", journal.Namespace{})
	if err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}); err != nil {
		t.Fatal(err)
	}
	r.wantAsked("DEL 2", "DEL 1", "DEL 0")
	for _, c := range r.calls {
		if string(c.Previous) != string(result(c.Delegate)) || c.Started == nil {
			t.Errorf("call %+v", c)
		}
	}
	r.wantFiles(0)
}

func TestDelOfUntouched(t *testing.T) {
	r := newRig(t)
	if err := r.Chain.Del(t.Context(), r.j, r.begin(3, "", journal.Namespace{}), "restart", Trip{}); err != nil {
		t.Fatal(err)
	}
	r.wantAsked()
	r.wantFiles(0)
}

// All are tried; the first error is the answer, the others are logged, and
// only the rest is asked again (F52).
func TestDelFails(t *testing.T) {
	var log bytes.Buffer
	r := newRig(t)
	r.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
	set := r.added(4, "", journal.Namespace{})
	r.faults["DEL 3"] = func(context.Context) error { return fmt.Errorf("first: %w", errFault) }
	r.faults["DEL 1"] = func(context.Context) error { return errors.New("second") }
	err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{})
	if want := "network ns/n3: interface if3: first: injected (kept in the journal, it will be tried again)"; err == nil || err.Error() != want || !errors.Is(err, errFault) {
		t.Errorf("error %v, want %q", err, want)
	}
	if !strings.Contains(log.String(), "network ns/n1: interface if1: second") {
		t.Errorf("log: %s", log.String())
	}
	r.wantAsked("DEL 3", "DEL 2", "DEL 1", "DEL 0")
	r.forget()
	state := r.stored()
	if diff := cmp.Diff([]int{3, 1}, state.Pending()); state.Phase != journal.Deleting || diff != "" {
		t.Errorf("journal: %s, pending %s", state.Phase, diff)
	}
	set, _ = r.j.Get(key())
	delete(r.faults, "DEL 3")
	if err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}); err == nil || !strings.Contains(err.Error(), "second") {
		t.Errorf("error %v", err)
	}
	r.wantAsked("DEL 3", "DEL 1")
	r.forget()
	delete(r.faults, "DEL 1")
	if err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}); err != nil {
		t.Error(err)
	}
	r.wantAsked("DEL 1")
	r.wantFiles(0)
}

// Hanging delegates leave the primary, which comes last, its share (J6).
func TestDelSharesTime(t *testing.T) {
	tests := []struct {
		name   string
		budget time.Duration
		hang   []int
		want   []time.Duration
	}{
		{"none hangs", 40 * time.Second, nil, []time.Duration{40 * time.Second / 3, 20 * time.Second, 33 * time.Second}},
		{"two hang", 40 * time.Second, []int{1, 2}, []time.Duration{40 * time.Second / 3, 40 * time.Second / 3, 40 * time.Second / 3}},
		{"the limit of one counts", 400 * time.Second, []int{1, 2}, []time.Duration{33 * time.Second, 33 * time.Second, 33 * time.Second}},
		{"no deadline", 0, []int{1, 2}, []time.Duration{33 * time.Second, 33 * time.Second, 33 * time.Second}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				set := r.added(3, "", journal.Namespace{})
				var got []time.Duration
				for i := range 3 {
					r.faults[fmt.Sprintf("DEL %d", i)] = func(ctx context.Context) error {
						deadline, _ := ctx.Deadline()
						got = append(got, time.Until(deadline).Round(time.Millisecond))
						for _, h := range tt.hang {
							if h == i {
								<-ctx.Done()
								return ctx.Err()
							}
						}
						return nil
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				if tt.budget > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), tt.budget)
				}
				defer cancel()
				err := r.Chain.Del(ctx, r.j, set, "DEL", Trip{})
				if (err != nil) != (tt.hang != nil) {
					t.Errorf("error %v", err)
				}
				for i := range tt.want {
					tt.want[i] = tt.want[i].Round(time.Millisecond)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("shares (-want +got):\n%s", diff)
				}
				if pending := set.State(); len(pending.Pending()) != len(tt.hang) {
					t.Errorf("pending %v", pending.Pending())
				}
			})
		})
	}
}

// A path that leads to another namespace by now is not shown to delegates: a
// DEL would remove the interfaces of another pod (F38, F39, F40).
func TestDelOfLostNamespace(t *testing.T) {
	tests := []struct {
		name   string
		boot   string
		change func(t *testing.T, w *testnet.Net, path string)
		same   bool
	}{
		{"unchanged", "boot-1", func(*testing.T, *testnet.Net, string) {}, true},
		{"removed", "boot-1", func(t *testing.T, _ *testnet.Net, path string) { must(t, os.Remove(path)) }, false},
		{"another namespace", "boot-1", func(t *testing.T, w *testnet.Net, path string) { link(t, w.Netns("other"), path) }, false},
		{"a file", "boot-1", func(t *testing.T, _ *testnet.Net, path string) {
			must(t, errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)))
		}, false},
		{"the host's", "boot-1", func(t *testing.T, _ *testnet.Net, path string) { link(t, "/proc/self/ns/net", path) }, false},
		{"another boot", "boot-2", func(*testing.T, *testnet.Net, string) {}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := testnet.New(t)
			pod := w.Host("pod")
			path := filepath.Join(t.TempDir(), "netns")
			link(t, pod.Path(), path)
			r := newRig(t)
			r.added(2, path, journal.Namespace(pod.ID()))
			tt.change(t, w, path)
			r.reopen(tt.boot)
			set, _ := r.j.Get(key())
			if err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}); err != nil {
				t.Fatal(err)
			}
			r.wantAsked("DEL 1", "DEL 0")
			want := ""
			if tt.same {
				want = path
			}
			for _, c := range r.calls {
				if c.Netns != want {
					t.Errorf("DEL %d is shown %q, want %q", c.Delegate, c.Netns, want)
				}
			}
			r.wantFiles(0)
		})
	}
}

// A path that can't be judged stops the DEL, which is tried again.
func TestDelOfUnreadableNamespace(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "loop")
	set := r.added(1, path, journal.Namespace{})
	link(t, path, path)
	if err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("error %v, want ELOOP", err)
	}
	r.wantAsked()
	r.wantFiles(1)
	must(t, os.Remove(path))
	if err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}); err != nil {
		t.Error(err)
	}
	r.wantAsked("DEL 0")
	r.wantFiles(0)
}

// The process that a killed daemon left is gone before the first DEL, be it of
// an ADD, of one whose result is known, or of a former DEL. After a reboot its
// number is that of another one.
func TestDelEndsLeftovers(t *testing.T) {
	for _, tt := range []struct {
		name, boot string
		ended      bool
		then       func(*journal.Set) error
	}{
		{"ADD", "boot-1", true, func(*journal.Set) error { return nil }},
		{"ADD, rebooted", "boot-2", false, func(*journal.Set) error { return nil }},
		{"ADD with its result", "boot-1", true, func(s *journal.Set) error { return s.Added(0, result(0)) }},
		{"DEL", "boot-1", true, func(s *journal.Set) error {
			return errors.Join(s.Added(0, result(0)), s.Commit(nil), s.Delete("DEL"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			set := r.begin(1, "", journal.Namespace{})
			p := leftover(t)
			must(t, errors.Join(tt.then(set), set.Process(0, &p)))
			r.reopen(tt.boot)
			set, _ = r.j.Get(key())
			ended := false
			r.faults["DEL 0"] = func(context.Context) error { ended = stateOf(t, p.Group) == "Z"; return nil }
			must(t, r.Chain.Del(t.Context(), r.j, set, "restart", Trip{}))
			r.wantAsked("DEL 0")
			if ended != tt.ended {
				t.Errorf("the process had ended before DEL: %v, want %v", ended, tt.ended)
			}
		})
	}
}

// leftover is a process that was started for the container.
func leftover(t *testing.T) journal.Process {
	t.Helper()
	cmd := osexec.Command("/bin/sleep", "3600")
	cmd.Env = []string{"CNI_CONTAINERID=c1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return journal.Process{Group: cmd.Process.Pid, StartTime: startOf(t, cmd.Process.Pid)}
}

func stateOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	return strings.Fields(string(data))[2]
}

// startOf is field 22 of proc_pid_stat(5).
func startOf(t *testing.T, pid int) uint64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	var start uint64
	_, err = fmt.Sscan(strings.Fields(string(data))[21], &start)
	must(t, err)
	return start
}

// CHECK and DEL are shown what the runtime was told, not what the delegate said
// before the default route was moved.
func TestPreviousIsWhatWasCommitted(t *testing.T) {
	r := newRig(t)
	set := r.begin(2, "", journal.Namespace{})
	told := json.RawMessage(`{"cniVersion":"1.1.0"}`)
	must(t, errors.Join(
		set.Process(0, nil), set.Added(0, result(0)), set.Process(1, nil), set.Added(1, result(1)),
		set.Commit([]attach.Attachment{{Delegate: 1, Result: told}, {Delegate: 0, Result: result(0)}}),
	))
	must(t, r.Chain.Check(t.Context(), set, Trip{}))
	must(t, r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}))
	for _, c := range r.calls {
		want := map[int]string{0: string(result(0)), 1: string(told)}[c.Delegate]
		if string(c.Previous) != want {
			t.Errorf("delegate %d is shown %s, want %s", c.Delegate, c.Previous, want)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// link makes path lead to target, whatever was there.
func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	must(t, os.Symlink(target, path))
}
