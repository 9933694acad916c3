package model

import "math/rand/v2"

// Walk takes random steps from the start, length of them in each of walks, and
// ends at the first violation. A Shared block stays Shared, so many short walks
// see more than few long ones. The same seed takes the same steps. An error is
// a wrong c.
func Walk(c Config, seed uint64, walks, length int) (Result, error) {
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	random := rand.New(rand.NewPCG(seed, 1))
	x := &expander{c: &c}
	var result Result
	for range walks {
		s := c.initial()
		var taken []edge
		for range length {
			e := pick(random, x.from(&s))
			taken = append(taken, e)
			s = e.to
			result.Steps++
			result.Depth = max(result.Depth, len(taken))
			if kind := s.broken(&c); kind != None {
				result.Violation = kind
				for _, e := range taken {
					result.Story = append(result.Story, e.String())
				}
				return result, nil
			}
		}
	}
	return result, nil
}

// pick draws a step. What undoes work is drawn less often than it is allowed:
// otherwise a walk has its crashes before anything is under way, and gives up
// what it began.
func pick(random *rand.Rand, steps []edge) edge {
	for {
		e := steps[random.IntN(len(steps))]
		odds := 1
		switch e.what {
		case evKill, evPowerOff, evLoseLog:
			odds = 15
		case evDel, evFail, evTimeout, evDrop:
			odds = 4
		}
		if random.IntN(odds) == 0 {
			return e
		}
	}
}
