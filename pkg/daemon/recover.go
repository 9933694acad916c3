package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/chain"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// staleAfter is how long the runtime has, after a reboot, to DEL the sandboxes
// of the boot before; then they are removed without it. None of them can be
// alive.
const staleAfter = 5 * time.Minute

// Recover puts back what damaged journal files said, and takes the turn of
// every sandbox that has unfinished work, so that no request can come before.
// The returned function does that work and gives the turns back.
func (d *Daemon) Recover(ctx context.Context, damaged []journal.Damaged) (finish func(context.Context)) {
	for _, file := range damaged {
		if err := d.restore(file); err != nil {
			d.opts.Log.Error("a damaged journal file could not be recovered; it is kept", "file", file.File,
				"set", file.Key.String(), "damage", file.Err.Error(), "error", err.Error())
		}
	}
	var work []func(context.Context)
	for _, set := range d.opts.Journal.Sets() {
		if state := set.State(); state.Phase == journal.Committed {
			continue
		}
		leave, err := d.order.enter(ctx, set.Key().ContainerID)
		if err != nil {
			d.opts.Log.Error("unfinished work is left for later", "set", set.Key().String(), "error", err.Error())
			continue
		}
		work = append(work, func(ctx context.Context) {
			defer leave()
			d.finish(ctx, set)
		})
	}
	return func(ctx context.Context) { inParallel(ctx, work, 8) }
}

func inParallel(ctx context.Context, work []func(context.Context), width int) {
	var group sync.WaitGroup
	slots := make(chan struct{}, width)
	for _, do := range work {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			do(ctx)
		})
	}
	group.Wait()
}

// finish undoes an ADD that nobody got the result of, or completes a DEL.
func (d *Daemon) finish(ctx context.Context, set *journal.Set) {
	ctx, cancel := context.WithTimeout(ctx, config.DelBudget)
	defer cancel()
	state := set.State()
	err := d.chain.Del(ctx, d.opts.Journal, set, "undo: the daemon ended before the ADD was done", chain.Trip{})
	log := d.opts.Log.With("set", set.Key().String(), "pod", state.Plan.Pod.String(), "phase", string(state.Phase))
	if err != nil {
		log.Error("unfinished work could not be finished and will be tried again", "error", err.Error())
		return
	}
	log.Info("unfinished work is finished", "reason", state.Reason)
}

// restore rebuilds the attachment set of a damaged file as one that is
// committed: its pod may be running, so it stays until its DEL.
func (d *Daemon) restore(file journal.Damaged) error {
	begin, err := d.salvaged(file)
	if err != nil {
		return err
	}
	attachments := make([]attach.Attachment, 0, len(begin.Plan.Delegates))
	var errs []error
	for i, delegate := range begin.Plan.Delegates {
		result, err := d.opts.Runner.RememberedResult(file.Key.ContainerID, delegate)
		if err != nil {
			errs = append(errs, err)
		}
		if result != nil {
			attachments = append(attachments, attach.Attachment{Delegate: i, Result: result})
		}
	}
	if _, err := d.opts.Journal.Restore(*begin, attachments); err != nil {
		return errors.Join(append(errs, err)...)
	}
	d.opts.Log.Warn("a damaged journal file was recovered", "file", file.File, "set", file.Key.String(),
		"damage", file.Err.Error(), "planSurvived", file.Begin != nil, "results", len(attachments), "errors", fmt.Sprint(errs))
	return nil
}

// salvaged is the plan that survived in the file, else one made of libcni's
// cache.
func (d *Daemon) salvaged(file journal.Damaged) (*journal.Begin, error) {
	if file.Begin != nil && file.Begin.Plan.Key == file.Key {
		return file.Begin, nil
	}
	memories, err := d.opts.Runner.Remembered(file.Key.ContainerID)
	if err != nil {
		return nil, err
	}
	if len(memories) == 0 {
		return nil, errors.New("neither the file nor the cache of results says what was attached: a DEL will ask the primary network")
	}
	begin := &journal.Begin{Plan: attach.Plan{Key: file.Key, Path: d.opts.Config.BinDirs}}
	for _, m := range memories {
		begin.Plan.Netns = m.Netns
		if m.Delegate.IfName == file.Key.IfName {
			m.Delegate.Primary = true
			begin.Plan.Delegates = append([]attach.Delegate{m.Delegate}, begin.Plan.Delegates...)
			continue
		}
		begin.Plan.Delegates = append(begin.Plan.Delegates, m.Delegate)
	}
	if id, _, err := sandbox(begin.Plan.Netns); err == nil {
		begin.NetnsDev, begin.NetnsInode = id.Dev, id.Inode
	}
	return begin, nil
}

// Sweep retries what an undo or a DEL left, and removes the sandboxes of an
// earlier boot that the runtime has forgotten. It returns when ctx ends.
func (d *Daemon) Sweep(ctx context.Context, every time.Duration) {
	start := time.Now()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			d.sweep(ctx, time.Since(start) > staleAfter)
		}
	}
}

func (d *Daemon) sweep(ctx context.Context, stale bool) {
	for _, set := range d.opts.Journal.Sets() {
		state := set.State()
		old := stale && state.BootID != d.opts.Journal.BootID()
		if state.Phase == journal.Committed && !old {
			continue
		}
		leave, ok := d.order.tryEnter(set.Key().ContainerID)
		if !ok {
			continue
		}
		if now, ok := d.opts.Journal.Get(set.Key()); ok && now == set {
			d.forget(set)
			d.finish(ctx, set)
		}
		leave()
	}
}
