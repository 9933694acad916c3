package journal

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// Phase is how far an attachment set has come.
type Phase string

const (
	// Begun: an ADD has started and nobody has its result yet.
	Begun Phase = "begun"
	// Committed: the ADD is done.
	Committed Phase = "committed"
	// Deleting: a DEL or an undo has started; there is no way back.
	Deleting Phase = "deleting"
)

// Step is what is known of one delegate of the plan.
type Step struct {
	// Touched: the delegate may have left something behind.
	Touched bool
	// Processes are those that were started for its ADD, latest last.
	Processes []Process
	// Result of its ADD in CNI 1.1.0, nil if it didn't finish.
	Result json.RawMessage
	// Deleted: its DEL succeeded.
	Deleted bool
	// Error is the last failure of its DEL, Failures their number, FailedSince
	// the time of the first.
	Error       string
	Failures    int
	FailedSince time.Time
}

// State is the content of one file, as a value.
type State struct {
	Begin
	Phase Phase
	Steps []Step
	// Routes are the default routes before the move, nil if they weren't
	// touched or are as before again.
	Routes json.RawMessage
	// Attachments are set from the commit on.
	Attachments []attach.Attachment
	// Reason says why the set is being removed.
	Reason string
}

// Pending are the delegates that still need a DEL, in the order of undo.
func (s *State) Pending() []int {
	var pending []int
	for i, step := range slices.Backward(s.Steps) {
		if step.Touched && !step.Deleted {
			pending = append(pending, i)
		}
	}
	return pending
}

// replay folds records into a state; it refuses what the journal never writes.
func replay(records []record) (*State, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("%w: it has no record", ErrCorrupt)
	}
	first := records[0]
	if first.Kind != KindBegin || first.Begin == nil {
		return nil, fmt.Errorf("%w: its first record is %q and not the plan", ErrCorrupt, first.Kind)
	}
	if first.Begin.Format != Format {
		return nil, fmt.Errorf("%w: format %d is unknown: this daemon writes %d", ErrCorrupt, first.Begin.Format, Format)
	}
	s := &State{
		Begin: *first.Begin, Phase: Begun,
		Steps: make([]Step, len(first.Begin.Plan.Delegates)),
	}
	for i, r := range records[1:] {
		if err := s.apply(r); err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrCorrupt, i+2, err)
		}
	}
	return s, nil
}

func (s *State) apply(r record) error {
	if r.Delegate < 0 || r.Delegate >= len(s.Steps) {
		return fmt.Errorf("delegate %d: the plan has %d", r.Delegate, len(s.Steps))
	}
	step := &s.Steps[r.Delegate]
	switch r.Kind {
	case KindProcess:
		step.Touched = true
		if r.Process != nil {
			step.Processes = append(step.Processes, *r.Process)
		}
	case KindAdded:
		step.Touched, step.Result = true, r.Result
	case KindRoutes:
		s.Routes = r.Routes
	case KindRestored:
		s.Routes = nil
	case KindCommit:
		s.Phase, s.Attachments = Committed, r.Attachments
	case KindDelete:
		s.Phase, s.Reason = Deleting, r.Message
	case KindDeleted:
		step.Deleted, step.Error = true, ""
	case KindFailed:
		step.Error = r.Message
		if step.Failures++; step.Failures == 1 {
			step.FailedSince = r.Time
		}
	case KindBegin:
		return fmt.Errorf("a second plan")
	default:
		return fmt.Errorf("kind %q is unknown", r.Kind)
	}
	return nil
}

func (s *State) clone() State {
	c := *s
	c.Steps = slices.Clone(s.Steps)
	return c
}
