package ipamtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
)

// Op is a method of ipam.Store.
type Op string

// The methods.
const (
	OpSpace       Op = "Space"
	OpGetBlock    Op = "GetBlock"
	OpCreateBlock Op = "CreateBlock"
	OpUpdateBlock Op = "UpdateBlock"
	OpDeleteBlock Op = "DeleteBlock"
	OpGetClaim    Op = "GetClaim"
	OpCreateClaim Op = "CreateClaim"
	OpUpdateClaim Op = "UpdateClaim"
	OpDeleteClaim Op = "DeleteClaim"
	OpNodeBlocks  Op = "NodeBlocks"
	OpNodeClaims  Op = "NodeClaims"
	OpKeptClaims  Op = "KeptClaims"
	OpSpaceBlocks Op = "SpaceBlocks"
	OpSpaceClaims Op = "SpaceClaims"
	OpTaken       Op = "Taken"
	OpNodes       Op = "Nodes"
	OpAsk         Op = "Ask"
	OpAsked       Op = "Asked"
	OpAnswered    Op = "Answered"
	OpMirror      Op = "Mirror"
)

// Writes says whether the method changes something.
func (o Op) Writes() bool {
	switch o {
	case OpCreateBlock, OpUpdateBlock, OpDeleteBlock, OpCreateClaim, OpUpdateClaim, OpDeleteClaim,
		OpSpace, OpAsk, OpAnswered, OpMirror:
		return true
	}
	return false
}

// Outcome is what becomes of a request.
type Outcome int

const (
	// Done: it is carried out and answered.
	Done Outcome = iota
	// Lost: it never takes effect; the caller sees an error.
	Lost
	// Unanswered: it is carried out, but the caller sees an error.
	Unanswered
	// Late: the caller sees an error, and the request takes effect, or is
	// refused, when ApplyLate is called. A read is Lost instead.
	Late
)

// ErrNoAnswer is the error of a request without an answer.
var ErrNoAnswer = errors.New("no answer from the store")

// Call is one request.
type Call struct {
	// Who is the handle's name (see As).
	Who string
	Op  Op
	// Name is that of the object, the node or the space.
	Name string
}

// Faults decides what becomes of a request before it is carried out. It may
// wait, and may use other handles, for a change that comes in between. The
// error is the caller's; nil means ErrNoAnswer. An error that ipam.Store
// defines must be true.
type Faults func(c Call) (Outcome, error)

// Chances are how likely each outcome is, from 0 to 1; the rest is Done.
type Chances struct{ Lost, Unanswered, Late float64 }

// Random are faults by chance, the same ones for the same seed and calls.
func Random(seed uint64, c Chances) Faults {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0))
	return func(Call) (Outcome, error) {
		mu.Lock()
		defer mu.Unlock()
		p := r.Float64()
		switch {
		case p < c.Lost:
			return Lost, nil
		case p < c.Lost+c.Unanswered:
			return Unanswered, nil
		case p < c.Lost+c.Unanswered+c.Late:
			return Late, nil
		}
		return Done, nil
	}
}

// SetFaults sets the faults of all handles; nil is none.
func (m *Memory) SetFaults(f Faults) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.w.faults = f
}

// text is a name that is a string.
type text string

func (t text) String() string { return string(t) }

// waiting is a request that comes late.
type waiting struct {
	call  Call
	apply func(w *world) error
}

// do is one request of the handle; apply is what the store does, under its
// lock.
func do[T any, N fmt.Stringer](ctx context.Context, m *Memory, op Op, name N, apply func(*world) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	w := m.w
	w.mu.Lock()
	w.counts[op]++
	faults := w.faults
	if faults == nil {
		defer w.mu.Unlock()
		return apply(w)
	}
	w.mu.Unlock()
	call := Call{Who: m.who, Op: op, Name: name.String()}
	outcome, err := faults(call)
	if err == nil {
		err = ErrNoAnswer
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case outcome == Late && op.Writes():
		w.late = append(w.late, waiting{call, func(w *world) error {
			_, err := apply(w)
			return err
		}})
	case outcome == Unanswered:
		_, _ = apply(w) // nobody learns of it
	case outcome == Done:
		return apply(w)
	}
	return zero, fmt.Errorf("%s %s: %w", op, call.Name, err)
}

// Waiting are the requests that come late, the oldest first.
func (m *Memory) Waiting() []Call {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	var calls []Call
	for _, late := range m.w.late {
		calls = append(calls, late.call)
	}
	return calls
}

// ApplyLate carries out the n-th of the requests that come late; 0 is the
// oldest. It returns what the caller would have been told.
func (m *Memory) ApplyLate(n int) error {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return m.w.takeLate(n).apply(m.w)
}

// DropLate forgets the n-th of the requests that come late.
func (m *Memory) DropLate(n int) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.w.takeLate(n)
}

func (w *world) takeLate(n int) waiting {
	late := w.late[n]
	w.late = append(w.late[:n:n], w.late[n+1:]...)
	return late
}

// Counts are the requests of all handles since ResetCounts, whatever became of
// them.
func (m *Memory) Counts() map[Op]int {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return maps.Clone(m.w.counts)
}

// ResetCounts begins to count anew.
func (m *Memory) ResetCounts() {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	clear(m.w.counts)
}

// Writes are how many requests would have changed objects of each kind. A
// Space that is there counts as a read, and so does the asking for it.
type Writes struct{ Blocks, Claims, Mirrors, Nodes int }

// Writes sums Counts up.
func (m *Memory) Writes() Writes {
	n := m.Counts()
	return Writes{
		Blocks:  n[OpCreateBlock] + n[OpUpdateBlock] + n[OpDeleteBlock],
		Claims:  n[OpCreateClaim] + n[OpUpdateClaim] + n[OpDeleteClaim],
		Mirrors: n[OpMirror],
		Nodes:   n[OpAsk] + n[OpAnswered],
	}
}
