package ipamdelegate

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Codes of our own; the CNI specification leaves those from 100 to plugins.
const (
	// CodeExhausted: no address is left. The message has the numbers.
	CodeExhausted uint = 100
	// CodeTaken: the address that was asked for has another owner.
	CodeTaken uint = 101
	// CodeConflict: a station on the wire has the address.
	CodeConflict uint = 102
)

// failed puts an error into CNI's words: network "x": what went wrong. A nil
// error stays nil.
func failed(network string, err error) error {
	if err == nil {
		return nil
	}
	known := (*types.Error)(nil)
	if !errors.As(err, &known) {
		known = types.NewError(code(err), err.Error(), "")
	}
	return types.NewError(known.Code, fmt.Sprintf("network %q: %s", network, known.Msg), known.Details)
}

func code(err error) uint {
	for _, known := range []struct {
		err  error
		code uint
	}{
		{ipam.ErrInvalid, types.ErrInvalidNetworkConfig},
		{ipam.ErrNoPool, types.ErrInvalidNetworkConfig},
		{ipam.ErrTaken, CodeTaken},
		{ipam.ErrConflict, CodeConflict},
		{ipam.ErrExhausted, CodeExhausted},
		{ipam.ErrNotReady, types.ErrTryAgainLater},
		{context.Canceled, types.ErrTryAgainLater},
		{context.DeadlineExceeded, types.ErrTryAgainLater},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return types.ErrInternal
}
