package agent

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// How often the background work is done; a kick comes before.
const (
	coolEvery   = time.Second
	answerEvery = 3 * time.Second
	bellEvery   = time.Minute // where a bell rings, for one that was missed
	workRetry   = 3 * time.Second
	mirrorEvery = 10 * time.Second
	tidyEvery   = 60 * time.Second
	scanEvery   = 5 * time.Minute
	scanRetry   = 5 * time.Second
	workTime    = 30 * time.Second
	// deadAfter is between the two looks that find a sandbox gone.
	deadAfter = 60 * time.Second
)

// Run does the work in the background until ctx ends. Failures are logged and
// tried again.
func (a *Agent) Run(ctx context.Context) {
	var group sync.WaitGroup
	every := func(what string, period time.Duration, bell <-chan struct{}, do func(context.Context) error) {
		group.Go(func() { a.loop(ctx, what, period, bell, do) })
	}
	every("lease blocks ahead", time.Minute, a.aheadKick, a.Ahead)
	every("give claims up", coolEvery, a.coolKick, a.Cool)
	answer := answerEvery
	if a.opts.Asked != nil {
		answer = bellEvery
	}
	every("share blocks", answer, a.opts.Asked, a.Answer)
	every("tell how blocks are used", mirrorEvery, nil, a.Mirror)
	every("tidy up", tidyEvery, nil, a.Tidy)
	group.Go(func() { a.scanLoop(ctx) })
	group.Wait()
}

// loop does one kind of work again and again; a failure is logged when it
// begins and when it ends.
func (a *Agent) loop(ctx context.Context, what string, period time.Duration, bell <-chan struct{}, do func(context.Context) error) {
	timer := time.NewTimer(period)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-bell:
		}
		err := a.within(ctx, do)
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			a.opts.Log.Warn("IPAM: "+what+": it is tried again", "error", err.Error())
		case err == nil && failing:
			a.opts.Log.Info("IPAM: " + what + ": works again")
		}
		failing = err != nil
		next := period
		if failing {
			next = min(period, workRetry)
		}
		timer.Reset(next)
	}
}

func (a *Agent) within(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	return do(ctx)
}

// scanLoop scans at the start, from time to time, and after writes without a
// clear outcome.
func (a *Agent) scanLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := scanRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.kick:
			if !a.scanWanted() {
				continue
			}
			if pause(ctx, scanRetry) != nil {
				return
			}
		}
		next := scanEvery
		if err := a.within(ctx, a.Scan); err == nil {
			retry = scanRetry
		} else if ctx.Err() == nil {
			a.opts.Log.Warn("IPAM: the node's blocks and claims could not be compared with the log; it is tried again", "error", err.Error())
			next, retry = retry, min(2*retry, scanEvery)
		}
		timer.Reset(next)
	}
}

// scanOneIn is how often a process that lives for one request scans without a
// reason: nobody remembers when the last one did.
const scanOneIn = 16

// Once is the work in the background of a process that lives for one request.
func (a *Agent) Once(ctx context.Context) error {
	var errs []error
	if a.scanWanted() || a.hasFormer() || rand.N(scanOneIn) == 0 {
		errs = append(errs, a.Scan(ctx))
	}
	return errors.Join(append(errs, a.Answer(ctx), a.Cool(ctx), a.Tidy(ctx))...)
}

// hasFormer says that blocks of an earlier boot aren't taken back yet.
func (a *Agent) hasFormer() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.state.blocks {
		if b.stage == stageFormer {
			return true
		}
	}
	return false
}

func (a *Agent) scanWanted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.scan
}

// Tidy ends demotions that were cut short, gives empty blocks back and releases
// the addresses of dead sandboxes.
func (a *Agent) Tidy(ctx context.Context) error {
	return errors.Join(a.Resume(ctx), a.GiveBack(ctx), a.Sweep(ctx))
}

// Sweep releases what sandboxes had that are gone without a DEL, seen so twice,
// a minute apart.
func (a *Agent) Sweep(ctx context.Context) error {
	a.mu.Lock()
	records := make([]*record, 0, len(a.state.records))
	for _, r := range a.state.records {
		records = append(records, r)
	}
	maps.DeleteFunc(a.sights, func(key ipam.Key, _ time.Duration) bool { return a.state.records[key] == nil })
	a.mu.Unlock()
	var errs []error
	for _, r := range records {
		key := r.Owner.Key
		if a.opts.Alive(r.Owner, r.Netns) {
			a.mu.Lock()
			delete(a.sights, key)
			a.mu.Unlock()
			continue
		}
		a.mu.Lock()
		first, seen := a.sights[key]
		if !seen {
			a.sights[key] = a.now()
		}
		a.mu.Unlock()
		if !seen || a.now()-first < deadAfter {
			continue
		}
		a.opts.Log.Warn("addresses of a sandbox that is gone are released", "key", key.String(), "pod", r.Owner.Pod())
		if err := a.Release(ctx, key); err != nil {
			errs = append(errs, err)
			continue
		}
		a.mu.Lock()
		delete(a.sights, key)
		a.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Mirror tells in the blocks' objects who has which address, for people.
func (a *Agent) Mirror(ctx context.Context) error {
	var errs []error
	for _, u := range a.usages() {
		v, err := a.opts.Store.Mirror(ctx, u)
		a.mu.Lock()
		b := a.state.blocks[u.Ref]
		switch {
		case b == nil:
		case err == nil && b.version.UID == v.UID:
			b.version = v
		case err != nil && !errors.Is(err, ipam.ErrStale) && !errors.Is(err, ipam.ErrNotFound):
			b.dirty = true
			errs = append(errs, err)
		}
		a.mu.Unlock()
	}
	return errors.Join(errs...)
}

// usages are those of the blocks that changed since they were told last.
func (a *Agent) usages() []ipam.Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := map[ipam.BlockRef]int{}
	var out []ipam.Usage
	for ref, b := range a.state.blocks {
		if b.dirty && b.stage == stageReady {
			at[ref] = len(out)
			out = append(out, ipam.Usage{Ref: ref, Bitmap: b.block.Bitmap(), At: time.Now().UTC().Truncate(time.Second), Version: b.version})
			b.dirty = false
		}
	}
	if len(out) == 0 {
		return nil
	}
	for _, r := range a.state.records {
		for _, p := range r.Places {
			grid := a.state.spaces[p.Space].Grid
			i, ok := at[ipam.BlockRef{Space: p.Space, Prefix: grid.Block(p.Addr)}]
			if p.InBlock && ok {
				out[i].Owners = append(out[i].Owners, ipam.AddressOwner{Addr: p.Addr, Owner: r.Owner, Since: r.Since})
			}
		}
	}
	return out
}
