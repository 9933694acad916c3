package daemon

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// WorkSpool does the DELs that the plugin spooled while no daemon answered:
// at once, and then from time to time. It returns when ctx ends.
func (d *Daemon) WorkSpool(ctx context.Context, spool wire.Spool, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		d.workSpool(ctx, spool)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (d *Daemon) workSpool(ctx context.Context, spool wire.Spool) {
	entries, err := spool.List()
	if err != nil {
		d.opts.Log.Error("spool", "error", err.Error())
	}
	work := make([]func(context.Context), 0, len(entries))
	for _, entry := range entries {
		work = append(work, func(ctx context.Context) { d.doSpooled(ctx, spool, entry) })
	}
	inParallel(ctx, work, 8)
}

// doSpooled does one entry; it stays in the spool until it succeeds.
func (d *Daemon) doSpooled(ctx context.Context, spool wire.Spool, entry wire.Entry) {
	defer func() {
		if p := recover(); p != nil {
			d.opts.Log.Error("spool: an entry can't be worked off", "entry", entry.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	log := d.opts.Log.With("entry", entry.Name, "containerID", entry.Request.ContainerID, "spooled", entry.Time)
	if entry.Request.Command != "DEL" {
		log.Error("spool: an entry that is no DEL was dropped", "command", entry.Request.Command)
	} else if err := d.replay(ctx, &entry); err != nil {
		log.Error("spool: a DEL failed and will be tried again", "error", err.Error())
		return
	}
	failpoint.Hit("spool.remove.before")
	if err := spool.Remove(entry); err != nil {
		log.Error("spool: a DEL that is done could not be removed and will be repeated", "error", err.Error())
	}
}

// replay does a spooled request as if the plugin asked now.
func (d *Daemon) replay(ctx context.Context, entry *wire.Entry) error {
	start := time.Now()
	r, err := d.parse(entry.Request)
	if err != nil {
		return err
	}
	r.spooled = entry
	err = d.del(ctx, r)
	d.logRequest(r, start, err)
	return err
}

// laterLife says that a set was begun after a DEL of the same container and
// interface was spooled: podman and others use a container's ID again, and the
// DEL was for the life before, whose rest that ADD has removed.
func (d *Daemon) laterLife(entry *wire.Entry, set *journal.Set) bool {
	state := set.State()
	if state.Recovered || entry.BootID == "" {
		return false // when the set was begun isn't known, or when the DEL was spooled
	}
	if entry.BootID == state.BootID {
		return state.Uptime > entry.Uptime
	}
	return state.BootID == d.opts.Journal.BootID()
}
