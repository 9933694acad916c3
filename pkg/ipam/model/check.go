package model

// Result is what a search found.
type Result struct {
	// States and Steps (transitions) that were seen; Depth is the longest of
	// the shortest ways from the start.
	States, Steps, Depth int
	// Complete says that every reachable state was seen.
	Complete bool
	// Violation is the kind of the first one found, and Story how it comes
	// about, one line a step; a breadth-first search gives a shortest story.
	Violation Kind
	Story     []string
}

// table numbers states in the order in which they were found.
type table struct {
	keys    []key
	parents []uint32
	slots   []uint32 // number+1, or 0; open addressing, a power of two
}

const firstSlots = 1 << 12

func newTable() *table { return &table{slots: make([]uint32, firstSlots)} }

func (k key) hash() uint64 {
	h := k[0]*0x9e3779b97f4a7c15 ^ (k[1]+0x7f4a7c15)*0xff51afd7ed558ccd
	h ^= h >> 32
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>29
}

// add gives the number of k and whether it is new.
func (t *table) add(k key, parent uint32) (uint32, bool) {
	if len(t.keys)*3 > len(t.slots)*2 {
		t.grow()
	}
	mask := uint64(len(t.slots) - 1)
	for at := k.hash() & mask; ; at = (at + 1) & mask {
		number := t.slots[at]
		if number == 0 {
			t.keys = append(t.keys, k)
			t.parents = append(t.parents, parent)
			t.slots[at] = uint32(len(t.keys))
			return uint32(len(t.keys) - 1), true
		}
		if t.keys[number-1] == k {
			return number - 1, false
		}
	}
}

func (t *table) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	mask := uint64(len(t.slots) - 1)
	for i, k := range t.keys {
		at := k.hash() & mask
		for t.slots[at] != 0 {
			at = (at + 1) & mask
		}
		t.slots[at] = uint32(i + 1)
	}
}

// Check visits every state of c breadth first, until a violation, or until
// maxStates (32 bytes each, about) were found. An error is a wrong c.
func Check(c Config, maxStates int) (Result, error) {
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	x := &expander{c: &c}
	t := newTable()
	start := c.initial()
	t.add(start.pack(), 0)
	result := Result{}
	for at, levelEnd := 0, 1; at < len(t.keys); at++ {
		if at == levelEnd {
			result.Depth++
			levelEnd = len(t.keys)
		}
		s := unpack(t.keys[at])
		for _, e := range x.from(&s) {
			result.Steps++
			number, isNew := t.add(e.to.pack(), uint32(at))
			if !isNew {
				continue
			}
			if kind := e.to.broken(&c); kind != None {
				result.States, result.Violation = len(t.keys), kind
				result.Story = t.story(&c, number)
				result.Depth = len(result.Story)
				return result, nil
			}
		}
		if len(t.keys) >= maxStates {
			result.States = len(t.keys)
			return result, nil
		}
	}
	result.States, result.Complete = len(t.keys), true
	return result, nil
}

// story walks back to the start and tells the steps forward.
func (t *table) story(c *Config, last uint32) []string {
	var path []uint32
	for at := last; at != 0; at = t.parents[at] {
		path = append(path, at)
	}
	x := &expander{c: c}
	var lines []string
	at := t.keys[0]
	for i := len(path) - 1; i >= 0; i-- {
		s := unpack(at)
		at = t.keys[path[i]]
		for _, e := range x.from(&s) {
			if e.to.pack() == at {
				lines = append(lines, e.String())
				break
			}
		}
	}
	return lines
}
