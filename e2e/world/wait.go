package world

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollEvery is how often a condition is looked at; small beside the seconds
// that a kubelet takes, large beside the cost of one look.
const pollEvery = 100 * time.Millisecond

// lastLook is how long a look that began within the limit may take.
const lastLook = 10 * time.Second

// Eventually calls look until it returns nil, a process that it needs has
// ended, the limit is over or the context ends. Then the error of the last
// look is returned.
func Eventually(ctx context.Context, limit time.Duration, look func(context.Context) error) error {
	over := time.Now().Add(limit)
	ctx, cancel := context.WithDeadline(ctx, over.Add(lastLook))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := look(ctx)
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		if time.Now().After(over) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
