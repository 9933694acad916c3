package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/netns"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// coded is an error with the CNI code that the runtime shall see.
type coded struct {
	code  uint
	cause error
}

func (e *coded) Error() string { return e.cause.Error() }
func (e *coded) Unwrap() error { return e.cause }

// invalid gives an error its code.
func invalid(code uint, cause error) error { return &coded{code: code, cause: cause} }

// code finds the CNI code of an error: a delegate's passes unchanged.
func code(err error) uint {
	var own *coded
	var delegate *types.Error
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &delegate):
		return delegate.Code
	case errors.Is(err, attach.ErrUnavailable), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, wire.ErrServerClosed), errors.Is(err, wire.ErrPeerGone):
		return wire.CodeTryAgainLater
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EIO):
		return wire.CodeIOFailure
	case errors.Is(err, netns.ErrGone):
		return wire.CodeUnknownContainer
	default:
		return wire.CodeInternal
	}
}

// failure is the reply for an error. Its message starts with the pod and ends
// with the code, because runtimes show the message alone.
func failure(r *request, err error) *wire.Reply {
	e := &wire.Error{Code: code(err), Msg: fmt.Sprintf("%v (code %d)", err, code(err))}
	if r != nil {
		e.CNIVersion = r.conf.CNIVersion
		if r.pod.Name != "" {
			e.Msg = fmt.Sprintf("pod %s: %s", r.pod, e.Msg)
		}
	}
	return &wire.Reply{Version: wire.ProtocolVersion, Error: e}
}

// success is the reply of a verb that prints nothing.
func success() *wire.Reply { return &wire.Reply{Version: wire.ProtocolVersion} }

// addReply is the primary's result in the version that the runtime asked for.
func addReply(callerVersion string, attachments []attach.Attachment) (*wire.Reply, error) {
	if len(attachments) == 0 || attachments[0].Delegate != 0 {
		return nil, errors.New("the result of the primary network is missing")
	}
	var latest types100.Result
	if err := json.Unmarshal(attachments[0].Result, &latest); err != nil {
		return nil, fmt.Errorf("result of the primary network: %w", err)
	}
	result, err := latest.GetAsVersion(callerVersion)
	if err != nil {
		return nil, invalid(wire.CodeIncompatibleVersion, fmt.Errorf("result of the primary network: %w", err))
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	return &wire.Reply{Version: wire.ProtocolVersion, Result: raw}, nil
}
