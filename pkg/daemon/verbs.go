package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// statusBudget is a little less than the 100 ms in which STATUS answers: a
// runtime asks without a limit of its own, and the kubelet waits for it.
const statusBudget = 90 * time.Millisecond

// check asks all delegates of the sandbox whether they are as they were.
func (d *Daemon) check(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, config.CheckBudget)
	defer cancel()
	leave, err := d.order.enter(ctx, r.ContainerID)
	if err != nil {
		return err
	}
	defer leave()
	set, ok := d.opts.Journal.Get(r.key)
	if !ok {
		return invalid(wire.CodeUnknownContainer, fmt.Errorf("sandbox %s has no attachments here", r.key))
	}
	state := set.State()
	r.pod = state.Plan.Pod
	if state.Phase != journal.Committed {
		return invalid(wire.CodeUnknownContainer, fmt.Errorf("sandbox %s is being removed: %s", r.key, state.Reason))
	}
	done := d.running.begin(ctx, r.ContainerID)
	defer done()
	return d.chain.Check(ctx, set, d.trip(r))
}

// status says whether an ADD could work now. It waits for no other request.
func (d *Daemon) status(ctx context.Context, r *request) error {
	if err := d.ready(); err != nil {
		return invalid(wire.CodeNotAvailable, err)
	}
	primary, err := d.opts.Primary.Primary()
	if err != nil {
		return invalid(wire.CodeNotAvailable, err)
	}
	delegates, err := d.primaryConf(primary)
	if err != nil {
		return invalid(wire.CodeNotAvailable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, statusBudget)
	defer cancel()
	err = d.opts.Runner.Status(ctx, delegates, r.path)
	if err != nil && ctx.Err() != nil {
		d.opts.Log.Warn("the primary network didn't answer STATUS in time and is taken for ready", "file", primary.File)
		return nil
	}
	if err != nil {
		return fmt.Errorf("primary network %s: %w", primary.File, err)
	}
	return nil
}

// ready says in words why no ADD can work.
func (d *Daemon) ready() error {
	if err := d.opts.Primary.Ready(); err != nil {
		return err
	}
	return d.probe.ask(d.opts.Journal.Probe)
}

// probeLimit is how long STATUS waits for the disk.
const probeLimit = 50 * time.Millisecond

// probe asks whether the disk can be written, and gives the last answer while
// the disk takes its time: a slow disk is not a full one.
type probe struct {
	mu      sync.Mutex
	running bool
	last    error
}

func (p *probe) ask(test func() error) error {
	p.mu.Lock()
	if p.running {
		defer p.mu.Unlock()
		return p.last
	}
	p.running = true
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := test()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running, p.last = false, err
	}()
	select {
	case <-done:
	case <-time.After(probeLimit):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// primaryConf is the primary as a configuration list.
func (d *Daemon) primaryConf(primary attach.Primary) ([]byte, error) {
	delegates, err := d.primaryPlan(&request{
		Request: &wire.Request{}, key: attach.Key{ContainerID: "status", IfName: "eth0"},
	})
	if err != nil {
		return nil, fmt.Errorf("primary network %s: %w", primary.File, err)
	}
	return delegates[0].Conf, nil
}

// gc removes every attachment set that the runtime doesn't name, and tells the
// primary network which are left. Sets that may have been begun after the
// runtime took its list are exempt.
func (d *Daemon) gc(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, config.AddBudget)
	defer cancel()
	valid, err := validAttachments(r.Config)
	if err != nil {
		return invalid(wire.CodeDecodingFailure, err)
	}
	uptime, err := journal.Uptime()
	if err != nil {
		return err
	}
	var errs []error
	for _, set := range d.opts.Journal.Sets() {
		state := set.State()
		young := state.BootID == d.opts.Journal.BootID() && state.Uptime > uptime-d.gcGrace()
		if valid[set.Key()] || young {
			continue
		}
		if err := d.collect(ctx, r, set); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", set.Key(), err))
		}
	}
	return errors.Join(append(errs, d.gcPrimary(ctx, r, valid))...)
}

// gcGrace is how old a set must be to be collected: the runtime's list may be
// older than the call by a while, and pods are added meanwhile. Standalone
// callers do one thing at a time, but what began after the call is exempt.
func (d *Daemon) gcGrace() time.Duration {
	if d.opts.Config.Mode == config.Standalone {
		return 0
	}
	return time.Minute
}

func (d *Daemon) gcPrimary(ctx context.Context, r *request, valid map[attach.Key]bool) error {
	primary, err := d.opts.Primary.Primary()
	if err != nil {
		return invalid(wire.CodeTryAgainLater, err)
	}
	conf, err := d.primaryConf(primary)
	if err != nil {
		return err
	}
	attachments := d.validOf(conf, valid)
	if err := d.opts.Runner.GC(ctx, conf, r.path, attachments); err != nil {
		return fmt.Errorf("primary network %s: %w", primary.File, err)
	}
	return nil
}

// validOf are the attachments that the primary network must keep: those that
// the runtime names, and every one of the journal to a network of the same
// name, which the runtime doesn't know of.
func (d *Daemon) validOf(conf []byte, valid map[attach.Key]bool) []types.GCAttachment {
	name := networkName(conf)
	all := maps.Clone(valid)
	for _, set := range d.opts.Journal.Sets() {
		state := set.State()
		for _, delegate := range state.Plan.Delegates {
			if networkName(delegate.Conf) == name {
				all[attach.Key{ContainerID: set.Key().ContainerID, IfName: delegate.IfName}] = true
			}
		}
	}
	attachments := make([]types.GCAttachment, 0, len(all))
	for key := range all {
		attachments = append(attachments, types.GCAttachment{ContainerID: key.ContainerID, IfName: key.IfName})
	}
	return attachments
}

func networkName(conf []byte) string {
	var named struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(conf, &named) != nil {
		return ""
	}
	return named.Name
}

// collect removes one set, in its sandbox's turn, unless an ADD has replaced
// it meanwhile.
func (d *Daemon) collect(ctx context.Context, r *request, set *journal.Set) error {
	leave, err := d.order.enter(ctx, set.Key().ContainerID)
	if err != nil {
		return err
	}
	defer leave()
	if now, ok := d.opts.Journal.Get(set.Key()); !ok || now != set {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, config.DelBudget)
	defer cancel()
	d.forget(set)
	return d.chain.Del(ctx, d.opts.Journal, set, "GC: the runtime doesn't know the sandbox", d.trip(r))
}

// validAttachments reads the list of the runtime (specification 1.1.0, section
// 2, GC). Without it nothing may be collected.
func validAttachments(conf []byte) (map[attach.Key]bool, error) {
	var list struct {
		Valid *[]types.GCAttachment `json:"cni.dev/valid-attachments"`
	}
	if err := json.Unmarshal(conf, &list); err != nil {
		return nil, err
	}
	if list.Valid == nil {
		return nil, errors.New("cni.dev/valid-attachments is missing: nothing is collected without it")
	}
	valid := make(map[attach.Key]bool, len(*list.Valid))
	for _, a := range *list.Valid {
		valid[attach.Key{ContainerID: a.ContainerID, IfName: a.IfName}] = true
	}
	return valid, nil
}
