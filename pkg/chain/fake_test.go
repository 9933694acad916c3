package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Runner that writes down what it is asked and does what faults say.
type fake struct {
	asked []string
	calls []exec.Call
	// faults are by "VERB index"; a fault gets the call's context.
	faults map[string]func(context.Context) error
	// unstarted delegates fail before any process exists.
	unstarted map[int]bool
	results   map[int]string
	// process is reported by each DEL.
	process *journal.Process
}

var errFault = errors.New("injected")

func fails(context.Context) error { return errFault }

func (f *fake) ask(ctx context.Context, verb string, c exec.Call) error {
	name := fmt.Sprintf("%s %d", verb, c.Delegate)
	f.asked, f.calls = append(f.asked, name), append(f.calls, c)
	if fault := f.faults[name]; fault != nil {
		return fault(ctx)
	}
	return ctx.Err()
}

func (f *fake) Add(ctx context.Context, c exec.Call) (json.RawMessage, error) {
	if !f.unstarted[c.Delegate] {
		if err := c.Started(nil); err != nil {
			return nil, err
		}
	}
	if err := f.ask(ctx, "ADD", c); err != nil {
		return nil, err
	}
	if result, ok := f.results[c.Delegate]; ok {
		return json.RawMessage(result), nil
	}
	return result(c.Delegate), nil
}

func result(delegate int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"cniVersion":"1.1.0","interfaces":[{"name":"if%d"}]}`, delegate))
}

func (f *fake) Check(ctx context.Context, c exec.Call) error { return f.ask(ctx, "CHECK", c) }

func (f *fake) Del(ctx context.Context, c exec.Call) error {
	if f.process != nil {
		if err := c.Started(f.process); err != nil {
			return err
		}
	}
	return f.ask(ctx, "DEL", c)
}

// forget empties the record.
func (f *fake) forget() { f.asked, f.calls = nil, nil }

// rig is a chain over a fake and a journal in a folder.
type rig struct {
	testing.TB
	*fake
	*Chain
	dir string
	j   *journal.Journal
}

func newRig(t testing.TB) *rig {
	t.Helper()
	f := &fake{faults: map[string]func(context.Context) error{}}
	r := &rig{TB: t, fake: f, dir: t.TempDir(), Chain: New(Options{
		Runner: f, DelegateTimeout: 30 * time.Second, UndoBudget: 20 * time.Second, Log: slog.New(slog.DiscardHandler),
	})}
	r.reopen("boot-1")
	return r
}

// reopen is a restart of the daemon.
func (r *rig) reopen(boot string) {
	r.Helper()
	j, damaged, err := journal.Open(journal.Options{
		Dir: filepath.Join(r.dir, "attachments"), Quarantine: filepath.Join(r.dir, "quarantine"),
		BootID: boot, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil || len(damaged) > 0 {
		r.Fatalf("journal: %v, damaged %v", err, damaged)
	}
	r.Cleanup(func() { _ = j.Close() })
	r.j = j
}

func key() attach.Key { return attach.Key{ContainerID: "c1", IfName: "eth0"} }

// begin writes down a plan of n delegates.
func (r *rig) begin(n int, netns string, id journal.Namespace) *journal.Set {
	r.Helper()
	p := &attach.Plan{Key: key(), Netns: netns}
	for i := range n {
		p.Delegates = append(p.Delegates, attach.Delegate{Network: fmt.Sprintf("ns/n%d", i), IfName: fmt.Sprintf("if%d", i)})
	}
	set, err := r.j.Begin(p, id)
	if err != nil {
		r.Fatal(err)
	}
	return set
}

// added is a set whose ADD is done.
func (r *rig) added(n int, netns string, id journal.Namespace) *journal.Set {
	r.Helper()
	set := r.begin(n, netns, id)
	if _, err := r.Chain.Add(r.Context(), r.j, set, Trip{}); err != nil {
		r.Fatal(err)
	}
	r.forget()
	return set
}

func (r *rig) wantAsked(want ...string) {
	r.Helper()
	if diff := cmp.Diff(want, r.asked); diff != "" {
		r.Errorf("asked (-want +got):\n%s", diff)
	}
}

// wantFiles counts the journal's files on disk.
func (r *rig) wantFiles(want int) {
	r.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "*", "*"))
	if err != nil || len(files) != want {
		r.Errorf("%d files in the journal (%v), %v, want %d", len(files), files, err, want)
	}
}

// stored is the set as a restarted daemon sees it.
func (r *rig) stored() journal.State {
	r.Helper()
	r.reopen(r.j.BootID())
	set, ok := r.j.Get(key())
	if !ok {
		r.Fatal("the journal forgot the set")
	}
	return set.State()
}

func wantText(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want one with %q", err, part)
		}
	}
}
