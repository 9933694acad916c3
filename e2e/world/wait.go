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

// Eventually calls look until it returns nil, a process that it needs has
// ended, the limit is over or the context ends. Then the error of the last
// look is returned.
func Eventually(ctx context.Context, limit time.Duration, look func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := look(ctx)
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		// A look cut short by the limit says less than the one before it.
		if last == nil || ctx.Err() == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, last)
		case <-tick.C:
		}
	}
}
