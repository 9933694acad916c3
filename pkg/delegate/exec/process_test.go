package exec

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

func TestDeadlineEndsTheGroup(t *testing.T) {
	tests := []struct {
		name string
		do   string
		end  error
		code uint
		want string
		// within which the call returns after its end
		within time.Duration
	}{
		{"obedient, deadline", "hang", context.DeadlineExceeded, types.ErrTryAgainLater, "plugin one did not finish in time", termGrace},
		{"obedient, cancelled", "hang", errors.New("the runtime hung up"), types.ErrInternal, "plugin one was ended: the runtime hung up", termGrace},
		{"stubborn with a child that holds the pipes", "hang for ever", context.DeadlineExceeded, types.ErrTryAgainLater, "was ended with its process group", termGrace + 3*time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			ctx, end := context.WithCancelCause(t.Context())
			defer end(nil)
			ended := make(chan time.Time, 1)
			var child int
			go func() {
				defer func() { ended <- time.Now(); end(tt.end) }()
				await(t, "the plugin has its configuration", func() bool { return len(b.calls()) > 0 })
				if tt.do == "hang for ever" {
					child = b.child()
				}
			}()
			_, err := b.Add(ctx, b.call(list("1.0.0", does("ADD", behaviour{Do: tt.do}))))
			took := time.Since(<-ended)
			wantError(t, err, tt.code, tt.want)
			if took > tt.within {
				t.Errorf("it took %v after the end of the context, at most %v", took, tt.within)
			}
			if pid := b.calls()[0].Pid; runs(pid) {
				t.Errorf("plugin %d still runs", pid)
			}
			if child != 0 && runs(child) {
				t.Errorf("its child %d still runs", child)
			}
		})
	}
}

// SIGTERM comes first: a plugin may use its grace, and its result no longer
// counts.
func TestDeadlineAsksFirst(t *testing.T) {
	b := newBench(t, nil)
	ctx, end := context.WithCancelCause(t.Context())
	go func() {
		defer end(context.DeadlineExceeded)
		await(t, "the plugin waits", func() bool { return exists(b.path("waiting")) })
	}()
	_, err := b.Add(ctx, b.call(list("1.0.0", does("ADD", behaviour{Do: "tidy up", Print: `{"cniVersion":"1.0.0"}`}))))
	wantError(t, err, types.ErrTryAgainLater, "did not finish in time")
	if !exists(b.path("tidied")) {
		t.Error("the plugin had no time to tidy up")
	}
}

// A helper that a plugin leaves in its group ends with it, and what the plugin
// said counts: neither is waited for.
func TestLeftChildIsEndedAndResultCounts(t *testing.T) {
	b := newBench(t, nil)
	start := time.Now()
	_, err := b.Add(t.Context(), b.call(list("1.0.0", does("ADD", behaviour{Do: "leave a child", Print: `{"cniVersion":"1.0.0"}`}))))
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took >= termGrace {
		t.Errorf("it took %v, although the plugin had ended", took)
	}
	if pid := b.child(); runs(pid) {
		t.Errorf("the child %d still runs", pid)
	}
}

// In a container the daemon is process 1 and inherits the orphans of plugins:
// they don't stay as zombies.
func TestOrphansAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	b := newBench(t, nil)
	_, err := b.Add(t.Context(), b.call(list("1.0.0", does("ADD", behaviour{Do: "leave a child", Print: `{"cniVersion":"1.0.0"}`}))))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := readStat(b.child()); err == nil {
		t.Errorf("the child is still there: %+v", st)
	}
}

// The configuration doesn't fit into a pipe and nobody reads it.
func TestDeadlineWhileNobodyReads(t *testing.T) {
	b := newBench(t, nil)
	writeScript(t, b.path("deaf"), "trap '' TERM\nsleep 3600 &\necho $! > "+b.path("child.new")+"\nmv "+b.path("child.new")+" "+b.path("child")+"\nwait")
	ctx, end := context.WithCancelCause(t.Context())
	var child int
	go func() {
		defer end(context.DeadlineExceeded)
		child = b.child()
	}()
	_, err := b.Add(ctx, b.call(list("1.0.0", `"type":"deaf","big":"`+strings.Repeat("x", 1<<20)+`"`)))
	wantError(t, err, types.ErrTryAgainLater, "plugin deaf did not finish in time")
	if runs(child) {
		t.Errorf("its child %d still runs", child)
	}
}

func TestOutput(t *testing.T) {
	long := strings.Repeat("früher ", 1000) + "panic: the last line"
	tests := []struct {
		name string
		do   behaviour
		code uint
		want string
	}{
		{"killed", behaviour{Do: "crash", Complain: long}, types.ErrInternal, "plugin one failed without an error message: signal: killed"},
		{"exit without JSON", behaviour{Exit: 139, Complain: long}, types.ErrInternal, "exit status 139"},
		{"exit with another JSON", behaviour{Exit: 1, Print: `{"cniVersion":"1.0.0"}`}, types.ErrInternal, "exit status 1"},
		{"code 11", behaviour{Exit: 1, Print: `{"cniVersion":"1.0.0","code":11,"msg":"later","details":"d"}`}, 11, "later; d"},
		{"code 7", behaviour{Exit: 1, Print: `{"code":7,"msg":"bad conf"}`}, 7, "bad conf"},
		{"own code", behaviour{Exit: 1, Print: `{"code":120,"msg":"of the plugin"}`}, 120, "of the plugin"},
		{"code without message", behaviour{Exit: 1, Print: `{"code":11,"msg":""}`}, 11, ""},
		{"error among the talk", behaviour{Exit: 1, Print: `{"code":7,"msg":"x"} bye`}, types.ErrInternal, "without an error message"},
		{"garbage", behaviour{Print: "hello"}, 0, "invalid character"},
		{"unknown version", behaviour{Print: `{"cniVersion":"9.9.9"}`}, 0, "9.9.9"},
		{"too much after a whole result", behaviour{Print: `{"cniVersion":"1.0.0"}` + strings.Repeat(" ", outputLimit)}, types.ErrInternal, "wrote more than 1048576 bytes"},
		{"too much by one byte", behaviour{Print: `{"cniVersion":"1.0.0"` + strings.Repeat(" ", outputLimit) + `}`}, types.ErrInternal, "wrote more than 1048576 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			_, err := b.Add(t.Context(), b.call(list("1.0.0", does("ADD", tt.do))))
			wantError(t, err, tt.code, tt.want)
			var e *types.Error
			if tt.do.Complain == "" || !errors.As(err, &e) {
				return
			}
			if len(e.Details) > stderrKept || !strings.Contains(e.Details, "the last line") {
				t.Errorf("details have %d bytes and end %q", len(e.Details), e.Details[max(0, len(e.Details)-30):])
			}
		})
	}
}

func TestOutputUpToTheLimit(t *testing.T) {
	b := newBench(t, nil)
	head, tail := `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]`, `}`
	whole := head + strings.Repeat(" ", outputLimit-len(head)-len(tail)) + tail
	got, err := b.Add(t.Context(), b.call(list("1.0.0", does("ADD", behaviour{Print: whole}))))
	if err != nil || !strings.Contains(string(got), "eth0") {
		t.Errorf("%s, %v", got, err)
	}
}

func TestFloodNeedsNoMemory(t *testing.T) {
	b := newBench(t, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := b.Add(t.Context(), b.call(list("1.0.0", does("ADD", behaviour{Do: "flood"}))))
	runtime.ReadMemStats(&after)
	wantError(t, err, types.ErrInternal, "wrote more than 1048576 bytes")
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("%d MiB were allocated", grown>>20)
	}
	if pid := b.calls()[0].Pid; runs(pid) {
		t.Errorf("plugin %d still runs", pid)
	}
}

// The same rules hold for every verb; an error of DEL and CHECK keeps its code.
func TestErrorsOfOtherVerbs(t *testing.T) {
	fails := func(verb string) string {
		return list("1.1.0", does(verb, behaviour{Exit: 1, Print: `{"code":11,"msg":"later"}`}))
	}
	b := newBench(t, nil)
	previous := json.RawMessage(`{"cniVersion":"1.1.0"}`)
	call := func(verb string) Call { c := b.call(fails(verb)); c.Previous = previous; return c }
	wantError(t, b.Del(t.Context(), call("DEL")), 11, "later")
	wantError(t, b.Check(t.Context(), call("CHECK")), 11, "later")
	wantError(t, b.Status(t.Context(), []byte(fails("STATUS")), []string{b.bin}), 11, "later")
	if err := b.Status(t.Context(), []byte(list("1.0.0", `"type":"missing"`)), []string{b.bin}); err != nil {
		t.Errorf("STATUS of a list of 1.0.0: %v", err)
	}
	// libcni flattens nothing of GC: errors.Join keeps the type.
	wantError(t, b.GC(t.Context(), []byte(fails("GC")), []string{b.bin}, nil), 11, "later")
}

// wantError wants a message, and a *types.Error of the code unless that is 0.
func wantError(t testing.TB, err error, code uint, message string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), message) {
		t.Errorf("error %v, want one with %q", err, message)
		return
	}
	var e *types.Error
	if code != 0 && (!errors.As(err, &e) || e.Code != code) {
		t.Errorf("error %#v of %v, want code %d", e, err, code)
	}
}
