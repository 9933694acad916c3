package model

// Goal is something that must never become impossible (I9).
type Goal uint8

// The goals.
const (
	// Clean: no sandbox, no record, no claim, no leased block, nothing on its
	// way.
	Clean Goal = iota
	// Served: the first sandbox is live.
	Served
)

func (g Goal) met(s *state) bool {
	if g == Served {
		return s.boxes[0].life == live
	}
	for _, b := range s.boxes {
		if b.life != idle || b.record != noRecord {
			return false
		}
	}
	for _, r := range s.late {
		if r.kind != noRequest {
			return false
		}
	}
	return s.block.mode != leased && s.claims[0].mode == noClaim && s.claims[1].mode == noClaim
}

// Reach looks at every state of c and counts those from which the goal can't
// be reached any more: stuck. Story leads to the first of them. With more than
// maxStates the result is not complete and stuck is 0. An error is a
// wrong c.
func Reach(c Config, goal Goal, maxStates int) (result Result, stuck int, err error) {
	if err := c.Check(); err != nil {
		return Result{}, 0, err
	}
	x := &expander{c: &c}
	t := newTable()
	start := c.initial()
	t.add(start.pack(), 0)
	var to []uint32
	first := []uint32{0}
	for at := 0; at < len(t.keys) && len(t.keys) < maxStates; at++ {
		s := unpack(t.keys[at])
		for _, e := range x.from(&s) {
			number, _ := t.add(e.to.pack(), uint32(at))
			to = append(to, number)
		}
		first = append(first, uint32(len(to)))
	}
	result = Result{States: len(t.keys), Steps: len(to), Complete: len(first) == len(t.keys)+1}
	if !result.Complete {
		return result, 0, nil
	}
	good := t.backward(goal, first, to)
	for i, ok := range good {
		if !ok {
			stuck++
			if stuck == 1 {
				result.Story = t.story(&c, uint32(i))
			}
		}
	}
	return result, stuck, nil
}

// backward marks the states from which a way leads to the goal. first and to
// are the steps: those of state i lie in to[first[i]:first[i+1]].
func (t *table) backward(goal Goal, first, to []uint32) []bool {
	// The steps turned round, in the same form.
	into := make([]uint32, len(t.keys)+1)
	for _, number := range to {
		into[number+1]++
	}
	for i := range len(t.keys) {
		into[i+1] += into[i]
	}
	from, filled := make([]uint32, len(to)), make([]uint32, len(t.keys))
	for i := range t.keys {
		for _, number := range to[first[i]:first[i+1]] {
			from[into[number]+filled[number]] = uint32(i)
			filled[number]++
		}
	}
	good := make([]bool, len(t.keys))
	var queue []uint32
	for i, k := range t.keys {
		if s := unpack(k); goal.met(&s) {
			good[i] = true
			queue = append(queue, uint32(i))
		}
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, number := range from[into[at]:into[at+1]] {
			if !good[number] {
				good[number] = true
				queue = append(queue, number)
			}
		}
	}
	return good
}
