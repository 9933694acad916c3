// Package chain walks a plan: it alone knows the order of delegates and of
// undo. Every step is in the journal before or right after it happens, so that
// the same walk can be taken up again after a crash.
//
// ADD returns with everything in place, or with an error and nothing left
// behind; what the undo could not remove stays in the journal and is tried
// again. DEL asks every delegate that may have left something, in reverse, and
// reports the first error; what succeeded isn't asked again.
package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/netns"
)

// Runner runs one delegate; *exec.Runner is it.
type Runner interface {
	Add(ctx context.Context, c exec.Call) (json.RawMessage, error)
	Check(ctx context.Context, c exec.Call) error
	Del(ctx context.Context, c exec.Call) error
}

// Options of a Chain.
type Options struct {
	Runner Runner
	// Running is told of each walk over delegates that may call back: whose it
	// is, and its context. It may be nil.
	Running func(ctx context.Context, containerID string) (done func())
	// DelegateTimeout bounds each delegate; ending it takes up to exec.EndRoom
	// longer.
	DelegateTimeout time.Duration
	// UndoBudget bounds the undo after a failed ADD, which runs even when the
	// ADD's own time is over.
	UndoBudget time.Duration
	Log        *slog.Logger
}

// Chain walks plans.
type Chain struct{ opts Options }

// New makes a Chain.
func New(opts Options) *Chain { return &Chain{opts: opts} }

// Timing is told how long each phase took.
type Timing func(phase string, took time.Duration)

// Trip is what a request gives to all delegates it calls.
type Trip struct {
	// Trace are the W3C trace context variables.
	Trace map[string]string
	// Path are folders that DEL and CHECK search for plugins after the plan's.
	Path []string
	// Timing may be nil.
	Timing Timing
}

func (t Trip) note(phase string, since time.Time) {
	if t.Timing != nil {
		t.Timing(phase, time.Since(since))
	}
}

func (c *Chain) call(s *journal.State, delegate int, t Trip) exec.Call {
	return exec.Call{Plan: &s.Plan, Delegate: delegate, Netns: s.Plan.Netns, Trace: t.Trace}
}

// limit is the time of one delegate within ctx, with the end of one that
// doesn't obey.
func (c *Chain) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.opts.DelegateTimeout+exec.EndRoom)
}

// running tells of a walk until done is called.
func (c *Chain) running(ctx context.Context, set *journal.Set) (done func()) {
	if c.opts.Running == nil {
		return func() {}
	}
	return c.opts.Running(ctx, set.Key().ContainerID)
}

// networkError says which network failed.
func networkError(d attach.Delegate, err error) error {
	return fmt.Errorf("network %s: interface %s: %w", d.Network, d.IfName, err)
}

// previous is the result that a delegate is shown on DEL and CHECK.
func previous(s *journal.State, delegate int) json.RawMessage {
	for _, a := range s.Attachments {
		if a.Delegate == delegate {
			return a.Result
		}
	}
	return s.Steps[delegate].Result
}

// sandboxNetns is the path of the set's own namespace, or empty when that is
// gone: a path may by now lead to the namespace of another sandbox.
func sandboxNetns(s *journal.State, bootID string) (string, error) {
	if s.Plan.Netns == "" || s.BootID != bootID {
		return "", nil
	}
	h, err := netns.Open(s.Plan.Netns)
	if errors.Is(err, netns.ErrGone) || errors.Is(err, netns.ErrNotNamespace) || errors.Is(err, netns.ErrHost) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	id := h.ID()
	if err := h.Close(); err != nil {
		return "", err
	}
	if id.Dev != s.NetnsDev || id.Inode != s.NetnsInode {
		return "", nil
	}
	return s.Plan.Netns, nil
}
