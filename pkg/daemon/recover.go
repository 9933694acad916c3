package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/chain"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Recover puts back what damaged journal files said, and takes the turn of
// every sandbox that has unfinished work, so that no request can come before.
// The returned function does that work and gives the turns back.
func (d *Daemon) Recover(ctx context.Context, damaged []journal.Damaged) (finish func(context.Context)) {
	for _, file := range damaged {
		d.recoverDamaged(file)
	}
	byContainer := map[string][]*journal.Set{}
	for _, set := range d.opts.Journal.Sets() {
		if state := set.State(); state.Phase != journal.Committed {
			byContainer[set.Key().ContainerID] = append(byContainer[set.Key().ContainerID], set)
		}
	}
	work := make([]func(context.Context), 0, len(byContainer))
	for containerID, sets := range byContainer {
		leave, err := d.order.enter(ctx, containerID)
		if err != nil {
			d.opts.Log.Error("unfinished work is left for later", "containerID", containerID, "error", err.Error())
			continue
		}
		work = append(work, func(ctx context.Context) {
			defer leave()
			for _, set := range sets {
				if d.finish(ctx, set) != nil {
					continue // logged, and the sweeper has it
				}
			}
		})
	}
	return func(ctx context.Context) { inParallel(ctx, work, 8) }
}

// recoverDamaged puts a recovered set in the damaged file's place; if nothing
// is known of it anywhere, the file is kept in the quarantine.
func (d *Daemon) recoverDamaged(file journal.Damaged) {
	log := d.opts.Log.With("set", file.Key.String(), "damage", file.Err.Error())
	err := d.restore(file)
	if err == nil {
		return
	}
	kept, quarantineErr := d.opts.Journal.Quarantine(file)
	if quarantineErr != nil {
		log.Error("a damaged journal file could neither be recovered nor put away", "error", errors.Join(err, quarantineErr).Error())
		return
	}
	log.Error("a damaged journal file could not be recovered; it is kept", "file", kept, "error", err.Error())
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
func (d *Daemon) finish(ctx context.Context, set *journal.Set) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.opts.Log.Error("unfinished work can't be finished", "set", set.Key().String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, config.DelBudget)
	defer cancel()
	state := set.State()
	err = d.chain.Del(ctx, d.opts.Journal, set, finishReason(&state), chain.Trip{})
	log := d.opts.Log.With("set", set.Key().String(), "pod", state.Plan.Pod.String(), "phase", string(state.Phase))
	if err != nil {
		log.Error("unfinished work could not be finished and will be tried again", "error", err.Error())
		return err
	}
	log.Info("unfinished work is finished", "reason", state.Reason)
	return nil
}

func finishReason(state *journal.State) string {
	if state.Phase == journal.Committed {
		return "sweep: the sandbox is gone"
	}
	return "undo: the daemon ended before the ADD was done"
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
		result, err := d.opts.Runner.RememberedResult(file.Key, delegate)
		if err != nil {
			errs = append(errs, err)
		}
		if result != nil {
			attachments = append(attachments, attach.Attachment{Delegate: i, Result: result})
		}
	}
	if _, err := d.opts.Journal.Restore(file, *begin, attachments); err != nil {
		return errors.Join(append(errs, err)...)
	}
	d.opts.Log.Warn("a damaged journal file was recovered", "set", file.Key.String(),
		"damage", file.Err.Error(), "planSurvived", file.Begin != nil, "results", len(attachments), "errors", fmt.Sprint(errs))
	return nil
}

// salvaged is the plan that survived in the file, else one made of libcni's
// cache.
func (d *Daemon) salvaged(file journal.Damaged) (*journal.Begin, error) {
	if file.Begin != nil && file.Begin.Plan.Key == file.Key {
		return file.Begin, nil
	}
	memories, err := d.opts.Runner.Remembered(file.Key)
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
