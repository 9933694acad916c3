package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

var (
	errDown = errors.New("connection refused")
	errGone = errors.New("pod not found")
)

// fakeAPI records calls; fail decides on their outcome.
type fakeAPI struct {
	took time.Duration // how long a call takes
	mu   sync.Mutex
	fail func(pod attach.Pod) error
	// patches are the values by pod name, in order; events the messages.
	patches  map[string][]string
	events   []string
	times    []time.Time
	underway map[string]int
	overlap  bool
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{patches: map[string][]string{}, underway: map[string]int{}}
}

func (f *fakeAPI) setFail(fail func(attach.Pod) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *fakeAPI) down(yes bool) {
	f.setFail(func(attach.Pod) error {
		if yes {
			return errDown
		}
		return nil
	})
}

// enter does what both calls share: time passes, and the outcome is decided.
func (f *fakeAPI) enter(ctx context.Context, pod attach.Pod) error {
	f.mu.Lock()
	f.times = append(f.times, time.Now())
	f.mu.Unlock()
	if f.took > 0 {
		select {
		case <-time.After(f.took):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail(pod)
	}
	return nil
}

func (f *fakeAPI) PatchPodStatus(ctx context.Context, pod attach.Pod, annotations map[string]string) error {
	f.mu.Lock()
	f.underway[pod.UID]++
	f.overlap = f.overlap || f.underway[pod.UID] > 1
	f.mu.Unlock()
	err := f.enter(ctx, pod)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.underway[pod.UID]--
	if err == nil {
		f.patches[pod.Name] = append(f.patches[pod.Name], annotations[StatusAnnotation])
	}
	return err
}

func (f *fakeAPI) CreateEvent(ctx context.Context, e Event) error {
	if err := f.enter(ctx, e.Pod); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e.Message)
	return nil
}

func (f *fakeAPI) values(pod string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.patches[pod])
}

func (f *fakeAPI) messages() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

func (f *fakeAPI) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.times)
}

func pod(name string) attach.Pod { return attach.Pod{Namespace: "ns", Name: name, UID: "uid-" + name} }

// world is a publisher that runs inside a bubble of fake time.
type world struct {
	*Publisher
	api  *fakeAPI
	log  bytes.Buffer
	stop func()
}

// inBubble runs the story with a publisher under way, and stops it.
func inBubble(t *testing.T, story func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{api: newFakeAPI()}
		w.Publisher = New(Options{API: w.api, Gone: errGone, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
		w.start(t)
		defer func() { w.stop() }()
		story(t, w)
	})
}

func (w *world) start(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestStatusIsSent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Status(pod("a"), "1")
		if err := w.Wait(context.Background(), pod("a")); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"1"}, w.api.values("a")); diff != "" {
			t.Error(diff)
		}
		w.Status(attach.Pod{}, "a sandbox without a pod")
		if s, e := w.Pending(); s != 0 || e != 0 {
			t.Errorf("pending %d %d", s, e)
		}
	})
}

func TestLatestWins(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.took = time.Second
		w.Status(pod("a"), "1")
		synctest.Wait() // under way
		w.Status(pod("a"), "2")
		w.Status(pod("a"), "3")
		if err := w.Wait(context.Background(), pod("a")); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"1", "3"}, w.api.values("a")); diff != "" || w.api.overlap {
			t.Error(diff, "overlap", w.api.overlap)
		}
	})
}

func TestAPIAwayForHours(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.down(true)
		for i := range 100 {
			w.Status(pod(fmt.Sprint(i)), fmt.Sprint(i))
		}
		w.Event(Event{Pod: pod("0"), Reason: "AddFailed", Message: "no"})
		time.Sleep(30 * time.Minute)
		before := w.api.calls()
		time.Sleep(time.Minute)
		if n := w.api.calls() - before; n < 100 || n > 500 {
			t.Errorf("%d calls a minute for 101 items in a long outage", n)
		}
		w.api.down(false)
		time.Sleep(maxBackoff + 10*time.Second)
		if s, e := w.Pending(); s != 0 || e != 0 || len(w.api.patches) != 100 || len(w.api.messages()) != 1 {
			t.Errorf("pending %d and %d, sent %d and %d", s, e, len(w.api.patches), len(w.api.messages()))
		}
		if n := strings.Count(w.log.String(), "failed and is tried again"); n > 110 {
			t.Errorf("%d lines of failures", n)
		}
		if !strings.Contains(w.log.String(), "works again") {
			t.Error("recovery isn't logged")
		}
	})
}

func TestRate(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		for i := range 250 {
			w.Status(pod(fmt.Sprint(i)), "x")
		}
		synctest.Wait()
		if n := w.api.calls(); n != 50 {
			t.Errorf("burst of %d, want 50", n)
		}
		if err := w.Wait(context.Background(), pod("249")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("250 patches took %s, want 10s", took)
		}
	})
}

func TestGonePodIsDropped(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.setFail(func(attach.Pod) error { return fmt.Errorf("patch: %w", errGone) })
		w.api.took = time.Millisecond
		w.Status(pod("a"), "1")
		if err := w.Wait(context.Background(), pod("a")); !errors.Is(err, ErrForgotten) {
			t.Errorf("Wait: %v", err)
		}
		time.Sleep(time.Hour)
		if n := w.api.calls(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestForget(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.down(true)
		w.Status(pod("a"), "1")
		go func() {
			time.Sleep(time.Minute)
			w.Forget(pod("a"))
		}()
		if err := w.Wait(context.Background(), pod("a")); !errors.Is(err, ErrForgotten) {
			t.Errorf("Wait: %v", err)
		}
		w.api.down(false)
		time.Sleep(time.Hour)
		if got := w.api.values("a"); got != nil {
			t.Errorf("sent %v", got)
		}
	})
}

// A status for the pod's next sandbox must not be overtaken by the patch that
// was under way for the former one.
func TestForgetWhileUnderWay(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.took = time.Second
		w.Status(pod("a"), "old")
		synctest.Wait()
		w.Forget(pod("a"))
		w.Status(pod("a"), "new")
		if err := w.Wait(context.Background(), pod("a")); err != nil {
			t.Fatal(err)
		}
		if got := w.api.values("a"); w.api.overlap || got[len(got)-1] != "new" {
			t.Errorf("sent %v, overlap %v", got, w.api.overlap)
		}
		if s, _ := w.Pending(); s != 0 {
			t.Errorf("%d pending", s)
		}
	})
}

func TestWaitEndsWithContext(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.down(true)
		w.Status(pod("a"), "1")
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := w.Wait(ctx, pod("a"))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errDown) || !strings.Contains(err.Error(), "ns/a") {
			t.Errorf("Wait: %v", err)
		}
	})
}

func TestBoundedPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		api := newFakeAPI()
		p := New(Options{API: api, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if p.statuses.max != maxPods {
			t.Fatalf("bound %d", p.statuses.max)
		}
		p.statuses.max = 200 // the same rule with less to do
		for i := range 205 {
			p.Status(pod(fmt.Sprint(i)), "x")
		}
		if s, _ := p.Pending(); s != 200 {
			t.Errorf("%d pending", s)
		}
		if err := p.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		if len(api.values("4")) != 0 || len(api.values("5")) != 1 || len(api.patches) != 200 {
			t.Errorf("not the oldest were dropped: %d sent", len(api.patches))
		}
		if n := strings.Count(log.String(), "dropped what"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestEventRepeats(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		e := Event{Pod: pod("a"), Type: Warning, Reason: "AddFailed", Message: "no such network"}
		for range 90 { // once a second
			w.Event(e)
			time.Sleep(time.Second)
		}
		want := []string{"no such network", "no such network (and 59 times more before)"}
		if diff := cmp.Diff(want, w.api.messages()); diff != "" {
			t.Error(diff)
		}
		other := e
		other.Pod = pod("b")
		w.Event(other)
		time.Sleep(series)
		w.Event(e)
		synctest.Wait()
		if diff := cmp.Diff(append(want, "no such network", "no such network"), w.api.messages()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRepeatsAreBounded(t *testing.T) {
	r := newRepeats()
	now := time.Now()
	for i := range 3 * maxSeries {
		r.pass(Event{Message: fmt.Sprint(i)}, now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(r.seen) > maxSeries {
		t.Errorf("%d are remembered", len(r.seen))
	}
	r.pass(Event{Message: "late"}, now.Add(time.Hour))
	if len(r.seen) != 1 {
		t.Errorf("%d are remembered after an hour", len(r.seen))
	}
}

func TestBoundedEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.down(true)
		for i := range maxEvents + 100 {
			w.Event(Event{Pod: pod("a"), Message: fmt.Sprint(i)})
		}
		if _, e := w.Pending(); e > maxEvents {
			t.Errorf("%d pending", e)
		}
		time.Sleep(eventAge + 10*time.Minute)
		if _, e := w.Pending(); e != 0 {
			t.Errorf("%d pending after their time", e)
		}
		if !strings.Contains(w.log.String(), "dropped=") {
			t.Error("not told")
		}
	})
}

func TestFlush(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.down(true)
		for i := range 80 {
			w.Status(pod(fmt.Sprint(i)), "x")
			w.Event(Event{Pod: pod(fmt.Sprint(i)), Message: "m"})
		}
		time.Sleep(time.Hour - time.Minute)
		w.stop()
		w.api.took = 100 * time.Millisecond
		if err := w.Flush(context.Background()); !errors.Is(err, errDown) || !strings.Contains(err.Error(), "80 network-status and 80 events") {
			t.Errorf("with the API away: %v", err)
		}
		w.api.down(false)
		ctx, cancel := context.WithTimeout(context.Background(), 250*time.Millisecond)
		defer cancel()
		if err := w.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with little time: %v", err)
		}
		start := time.Now()
		if err := w.Flush(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %s", took)
		}
		if len(w.api.patches) != 80 || len(w.api.messages()) != 80 {
			t.Errorf("sent %d and %d", len(w.api.patches), len(w.api.messages()))
		}
	})
}

// Stopping while calls hang keeps what they carried for Flush.
func TestStopKeepsWhatIsUnderWay(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.took = 5 * time.Second
		w.Status(pod("a"), "1")
		w.Event(Event{Pod: pod("a"), Message: "m"})
		synctest.Wait()
		w.stop()
		if s, e := w.Pending(); s != 1 || e != 1 || strings.Contains(w.log.String(), "failed") {
			t.Fatalf("pending %d %d, log %s", s, e, w.log.String())
		}
		if err := w.Flush(context.Background()); err != nil {
			t.Error(err)
		}
		if len(w.api.values("a")) != 1 || len(w.api.messages()) != 1 {
			t.Errorf("sent %v %v", w.api.patches, w.api.events)
		}
	})
}

// A call that never returns is ended and doesn't hold the others.
func TestHangingCall(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.api.took = time.Hour
		w.Status(pod("a"), "1")
		synctest.Wait()
		w.api.took = 0 // for the calls to come; the first one has read it
		start := time.Now()
		if err := w.Wait(context.Background(), pod("a")); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > callTime+time.Second {
			t.Errorf("the call was ended after %s only", took)
		}
	})
}

func TestStandaloneOnlyLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		p.Status(pod("a"), "[status]")
		p.Event(Event{Pod: pod("a"), Type: Warning, Reason: "AddFailed", Message: "no such network"})
		if err := errors.Join(p.Wait(context.Background(), pod("a")), p.Flush(context.Background())); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"[status]", "level=WARN msg=\"no such network\" pod=ns/a reason=AddFailed"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("log lacks %q: %s", want, log.String())
			}
		}
	})
}

// TestFlakyAPI: whatever fails in whatever order, the last value of each pod
// arrives last.
func TestFlakyAPI(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		calls := 0
		w.api.took = 30 * time.Millisecond
		w.api.setFail(func(attach.Pod) error {
			if calls++; calls%3 != 0 {
				return errDown
			}
			return nil
		})
		want := map[string]string{}
		for i := range 200 {
			name, value := fmt.Sprint(i%17), fmt.Sprint(i)
			w.Status(pod(name), value)
			want[name] = value
			if i%23 == 0 {
				w.Forget(pod(name))
				delete(want, name)
			}
			time.Sleep(7 * time.Millisecond)
		}
		for name := range want {
			if err := w.Wait(context.Background(), pod(name)); err != nil {
				t.Error(err)
			}
		}
		got := maps.Clone(want)
		for name := range want {
			values := w.api.values(name)
			got[name] = values[len(values)-1]
		}
		if diff := cmp.Diff(want, got); diff != "" || w.api.overlap {
			t.Error(diff, "overlap", w.api.overlap)
		}
	})
}
