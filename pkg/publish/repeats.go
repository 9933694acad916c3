package publish

import (
	"sync"
	"time"
)

const (
	// series is how long after its last occurrence an Event counts as the same.
	series = 10 * time.Minute
	// again is the least time between two sends of the same Event.
	again = time.Minute
	// maxSeries bounds how many Events are remembered.
	maxSeries = 4096
)

// repeats recognises Events that occur again.
type repeats struct {
	mu   sync.Mutex
	seen map[Event]*occurrence
}

type occurrence struct {
	sent, last time.Time
	left       int
}

func newRepeats() *repeats { return &repeats{seen: map[Event]*occurrence{}} }

// pass tells whether the Event is to be sent now, and how many of its kind
// were left out since the last one that was.
func (r *repeats) pass(e Event, now time.Time) (more int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Type = "" // pod, reason and message make it the same
	o := r.seen[e]
	if o != nil && now.Sub(o.last) < series {
		o.last = now
		if now.Sub(o.sent) < again {
			o.left++
			return 0, false
		}
		more, o.left, o.sent = o.left, 0, now
		return more, true
	}
	delete(r.seen, e)
	r.makeRoom(now)
	r.seen[e] = &occurrence{sent: now, last: now}
	return 0, true
}

// makeRoom forgets the series that are over when there are many, else the one
// seen longest ago.
func (r *repeats) makeRoom(now time.Time) {
	if len(r.seen) < maxSeries {
		return
	}
	var oldest Event
	var when time.Time
	for e, o := range r.seen {
		if now.Sub(o.last) >= series {
			delete(r.seen, e)
			continue
		}
		if when.IsZero() || o.last.Before(when) {
			oldest, when = e, o.last
		}
	}
	if len(r.seen) >= maxSeries {
		delete(r.seen, oldest)
	}
}
