package daemon

import (
	"context"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
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
	log := d.opts.Log.With("entry", entry.Name, "containerID", entry.Request.ContainerID, "spooled", entry.Time)
	if entry.Request.Command != "DEL" {
		log.Error("spool: an entry that is no DEL was dropped", "command", entry.Request.Command)
	} else if d.addedSince(entry) {
		log.Warn("spool: a DEL was dropped: the sandbox has been added again since")
	} else if err := d.replay(ctx, entry.Request); err != nil {
		log.Error("spool: a DEL failed and will be tried again", "error", err.Error())
		return
	}
	failpoint.Hit("spool.remove.before")
	if err := spool.Remove(entry); err != nil {
		log.Error("spool: a DEL that is done could not be removed and will be repeated", "error", err.Error())
	}
}

// addedSince says that the spooled DEL was for an earlier life of its sandbox:
// podman and others use a container's ID again. The ADD has removed what was
// left of that life.
func (d *Daemon) addedSince(entry wire.Entry) bool {
	set, ok := d.opts.Journal.Get(attach.Key{ContainerID: entry.Request.ContainerID, IfName: entry.Request.IfName})
	return ok && set.State().Began().After(entry.Time)
}

func (d *Daemon) replay(ctx context.Context, req *wire.Request) error {
	var answer *wire.Reply
	d.Handle(ctx, req, func(r *wire.Reply) error {
		answer = r
		return nil
	})
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
