package exec

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// inside is a plugin of the daemon's own that writes its calls down.
type inside struct {
	verbs  []string
	last   delegate.Call
	result types.Result
	err    error
}

func (p *inside) did(verb string, call delegate.Call) error {
	p.verbs, p.last = append(p.verbs, verb), call
	return p.err
}

func (p *inside) Add(_ context.Context, c delegate.Call) (types.Result, error) {
	return p.result, p.did("ADD", c)
}
func (p *inside) Check(_ context.Context, c delegate.Call) error  { return p.did("CHECK", c) }
func (p *inside) Del(_ context.Context, c delegate.Call) error    { return p.did("DEL", c) }
func (p *inside) Status(_ context.Context, c delegate.Call) error { return p.did("STATUS", c) }
func (p *inside) GC(_ context.Context, c delegate.Call) error     { return p.did("GC", c) }

func TestBuiltinAmongBinaries(t *testing.T) {
	own := &inside{result: &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: "from-inside"}}}}
	b := newBench(t, map[string]delegate.Delegate{"own": own})
	call := b.call(list("1.1.0", `"type":"one"`, `"type":"own","key":5`, does("ADD", behaviour{Print: `{"cniVersion":"1.1.0"}`})))
	var reported []bool
	call.Started = func(p *journal.Process) error { reported = append(reported, p != nil); return nil }
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]bool{true, false, true}, reported); diff != "" {
		t.Errorf("reported as processes (-want +got):\n%s", diff)
	}
	wantJSON(t, "configuration inside", `{"cniVersion":"1.1.0","name":"net","type":"own","key":5,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}]}}`, string(own.last.Conf))
	own.last.Conf = nil
	want := delegate.Call{ContainerID: "c1", Netns: "/run/netns/x", IfName: "eth0", Args: "IgnoreUnknown=1;K8S_POD_NAME=pod", Path: b.bin}
	if diff := cmp.Diff(want, own.last); diff != "" {
		t.Errorf("call inside (-want +got):\n%s", diff)
	}
	wantJSON(t, "prevResult of the next", `{"cniVersion":"1.1.0","interfaces":[{"name":"from-inside"}]}`, keyOf(t, b.calls()[1].Stdin, "prevResult"))
	for _, err := range []error{
		b.Check(t.Context(), call), b.Del(t.Context(), call),
		b.Status(t.Context(), call.delegate().Conf, call.Plan.Path), b.GC(t.Context(), call.delegate().Conf, call.Plan.Path, nil),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"ADD", "CHECK", "DEL", "STATUS", "GC"}, own.verbs); diff != "" {
		t.Errorf("verbs inside (-want +got):\n%s", diff)
	}
}

func TestBuiltinFails(t *testing.T) {
	own := &inside{err: types.NewError(types.ErrTryAgainLater, "no block yet", "")}
	b := newBench(t, map[string]delegate.Delegate{"own": own})
	call := b.call(list("1.0.0", `"type":"own"`))
	_, err := b.Add(t.Context(), call)
	wantError(t, err, types.ErrTryAgainLater, "no block yet")
	wantError(t, b.Del(t.Context(), call), types.ErrTryAgainLater, "no block yet")

	full := errors.New("disk is full")
	own.verbs, own.err = nil, nil
	call.Started = func(*journal.Process) error { return full }
	if _, err := b.Add(t.Context(), call); !errors.Is(err, full) || own.verbs != nil {
		t.Errorf("%v, called %v: nothing may run that isn't written down", err, own.verbs)
	}
	call.Started = nil
	_, err = b.Add(t.Context(), call)
	wantError(t, err, types.ErrInternal, "the plugin gave neither a result nor an error")
}

// A binary of the name of an own type is never run.
func TestBuiltinBeatsBinary(t *testing.T) {
	own := &inside{result: &types100.Result{CNIVersion: "1.0.0"}}
	b := newBench(t, map[string]delegate.Delegate{"one": own})
	if _, err := b.Add(t.Context(), b.call(list("1.0.0", `"type":"one"`))); err != nil || len(own.verbs) != 1 || b.calls() != nil {
		t.Errorf("%v, inside %v, outside %v", err, own.verbs, b.calls())
	}
}

// GC tells both kinds of plugins which attachments are valid.
func TestGCNamesTheValid(t *testing.T) {
	own := &inside{}
	b := newBench(t, map[string]delegate.Delegate{"own": own})
	valid := []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}
	if err := b.GC(t.Context(), []byte(list("1.1.0", `"type":"one"`, `"type":"own"`)), []string{b.bin}, valid); err != nil {
		t.Fatal(err)
	}
	const want = `[{"containerID":"c1","ifname":"eth0"}]`
	for _, conf := range []json.RawMessage{b.calls()[0].Stdin, own.last.Conf} {
		wantJSON(t, "valid attachments", want, keyOf(t, conf, "cni.dev/valid-attachments"))
	}
}
