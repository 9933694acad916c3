// Package delegate defines what the chain asks of a network plugin that runs
// inside the daemon: the CNI verbs as methods. A plugin that is a binary needs
// no code here; package delegate/exec runs it. An own type that appears in a
// configuration list is dispatched to its Delegate instead of to a binary.
//
// A Delegate obeys the CNI specification 1.1.0, section 2: DEL is idempotent
// and succeeds for what is already gone, CHECK reads only, errors are
// *types.Error where a code is meant.
package delegate

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// Call is one invocation, as a plugin process would see it in its environment
// and on its standard input.
type Call struct {
	ContainerID string
	// Netns is the path of the network namespace; may be empty on DEL.
	Netns  string
	IfName string
	// Args is CNI_ARGS.
	Args string
	// Path is CNI_PATH.
	Path string
	// Conf is the configuration of this one plugin, with name, cniVersion,
	// prevResult and runtimeConfig filled in.
	Conf []byte
}

// Delegate is a network plugin inside the daemon.
type Delegate interface {
	Add(ctx context.Context, call Call) (types.Result, error)
	Check(ctx context.Context, call Call) error
	Del(ctx context.Context, call Call) error
	Status(ctx context.Context, call Call) error
	GC(ctx context.Context, call Call) error
}

// Run calls the method of a CNI verb; the result is nil for all but ADD.
func Run(ctx context.Context, d Delegate, verb string, call Call) (types.Result, error) {
	switch verb {
	case "ADD":
		return add(ctx, d, call)
	case "DEL":
		return nil, d.Del(ctx, call)
	case "CHECK":
		return nil, d.Check(ctx, call)
	case "STATUS":
		return nil, d.Status(ctx, call)
	case "GC":
		return nil, d.GC(ctx, call)
	default:
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_COMMAND %q is unknown", verb), "")
	}
}

func add(ctx context.Context, d Delegate, call Call) (types.Result, error) {
	result, err := d.Add(ctx, call)
	if err == nil && result == nil {
		return nil, types.NewError(types.ErrInternal, "the plugin gave neither a result nor an error", "")
	}
	return result, err
}
