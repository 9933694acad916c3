package daemon

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/agent"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/wal"
)

// frail is a log that can break.
type frail struct {
	mu     sync.Mutex
	broken error
}

type kept struct{}

func (kept) Wait() error { return nil }

func (f *frail) Append([]byte) (agent.Ticket, error)         { return kept{}, f.Broken() }
func (f *frail) AppendReserved([]byte) (agent.Ticket, error) { return kept{}, f.Broken() }
func (f *frail) Compact([]byte) error                        { return f.Broken() }
func (f *frail) Compacting() bool                            { return false }
func (f *frail) Size() int64                                 { return 0 }
func (f *frail) Close() error                                { return nil }

func (f *frail) Broken() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

func (f *frail) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

// A log that broke ends the daemon, so that the next one reads what there is:
// with it, each DEL would fail for ever.
func TestBrokenLogEndsTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &frail{}
		own, err := agent.Open(log, wal.Recovered{}, agent.Options{
			Store: ipamtest.NewMemory(), Node: ipam.Node{Name: "n", Boot: "b"}, Clock: func() time.Duration { return time.Hour },
		})
		if err != nil {
			t.Fatal(err)
		}
		a := &addressing{agent: own, run: func(context.Context, *errgroup.Group) {}}
		group, ctx := errgroup.WithContext(t.Context())
		a.start(ctx, group)
		time.Sleep(time.Hour)
		if err := ctx.Err(); err != nil {
			t.Fatalf("it ended while all was well: %v", err)
		}
		failure := errors.New("input/output error")
		log.fail(failure)
		if err := group.Wait(); !errors.Is(err, failure) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// The daemon stays while its addresses can't be used, and ends when they could
// be: pods that need none are served meanwhile.
func TestMendedLogEndsTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, room := errors.New("no space left on device"), make(chan struct{})
		a := &addressing{run: func(context.Context, *errgroup.Group) {}, broken: full, again: func(context.Context) error {
			select {
			case <-room:
				return nil
			default:
				return full
			}
		}}
		group, ctx := errgroup.WithContext(t.Context())
		a.start(ctx, group)
		time.Sleep(time.Hour)
		if err := ctx.Err(); err != nil {
			t.Fatalf("it ended while nothing was mended: %v", err)
		}
		close(room)
		if err := group.Wait(); !errors.Is(err, full) {
			t.Errorf("it ended with %v", err)
		}
	})
}
