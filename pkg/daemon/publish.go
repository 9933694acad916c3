package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meta-cni/meta-cni/pkg/annotation"
	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/publish"
)

// publishWait bounds how long ADD waits for the annotation when it is asked
// to.
const publishWait = time.Second

// publishBefore queues the network-status and, if so configured, waits for it.
// It never fails an ADD.
func (d *Daemon) publishBefore(ctx context.Context, r *request, state *journal.State) {
	if r.pod.UID == "" || d.opts.Publisher == nil {
		return
	}
	if err := d.publishStatus(state); err != nil {
		d.opts.Log.Error("network-status can't be written", "pod", r.pod.String(), "error", err.Error())
		return
	}
	if !d.opts.Config.PublishBeforeReply {
		return
	}
	defer r.since("publish", time.Now())
	ctx, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	if err := d.opts.Publisher.Wait(ctx, r.pod); err != nil {
		d.opts.Log.Warn("network-status is not written yet", "pod", r.pod.String(), "error", err.Error())
	}
}

func (d *Daemon) publishStatus(state *journal.State) error {
	value, err := statusValue(state)
	if err == nil {
		d.opts.Publisher.Status(state.Plan.Pod, value)
	}
	return err
}

// statusValue is the network-status annotation of a committed set.
func statusValue(state *journal.State) (string, error) {
	statuses, err := annotation.Status(&state.Plan, state.Attachments)
	if err != nil {
		return "", err
	}
	return annotation.EncodeStatus(statuses)
}

// publishAfter tells the pod's owner of each interface.
func (d *Daemon) publishAfter(r *request, state *journal.State) {
	if r.pod.UID == "" || d.opts.Publisher == nil {
		return
	}
	for _, a := range state.Attachments {
		delegate := state.Plan.Delegates[a.Delegate]
		d.opts.Publisher.Event(publish.Event{
			Pod: r.pod, Type: publish.Normal, Reason: "AddedInterface",
			Message: fmt.Sprintf("Add %s %s from %s", delegate.IfName, addresses(a.Result), delegate.Network),
		})
	}
}

// addresses are the CIDRs of a result in brackets, as Multus' event has them.
func addresses(raw json.RawMessage) string {
	var result types100.Result
	if json.Unmarshal(raw, &result) != nil {
		return "[]"
	}
	cidrs := make([]string, len(result.IPs))
	for i, ip := range result.IPs {
		cidrs[i] = ip.Address.String()
	}
	return "[" + strings.Join(cidrs, " ") + "]"
}

// reportFailure tells the pod's owner why an ADD failed.
func (d *Daemon) reportFailure(r *request, err error) {
	if r.pod.UID == "" || d.opts.Publisher == nil {
		return
	}
	reason := "FailedAttachNetwork"
	switch {
	case errors.Is(err, attach.ErrNetworkNotFound):
		reason = "NoNetworkFound"
	case errors.Is(err, attach.ErrUnavailable):
		reason = "NetworkUnavailable"
	}
	d.opts.Publisher.Event(publish.Event{Pod: r.pod, Type: publish.Warning, Reason: reason, Message: err.Error()})
}
