package route

import (
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// EditResults makes CNI results say what the moves made true: the default
// routes of the moved address families are taken out of all results, and each
// moved one is added to its own. results are those of all attachments of a
// pod, nil for one without a result; index[i] is the place of moves[i]'s
// attachment among them. The given results are not changed.
//
// So the runtime gets the truth, and a later CHECK of each delegate, which
// compares its former result with the kernel, stays true.
func EditResults(moves []Move, results []*types100.Result, index []int) ([]*types100.Result, error) {
	if len(index) != len(moves) {
		return nil, fmt.Errorf("edit results: %d moves but %d places", len(moves), len(index))
	}
	edited := make([]*types100.Result, len(results))
	for i, result := range results {
		if result != nil {
			edited[i] = withoutDefaults(result, moves)
		}
	}
	for i, move := range moves {
		if index[i] < 0 || index[i] >= len(results) || edited[index[i]] == nil {
			return nil, fmt.Errorf("edit results: %s: attachment %d has no result", move, index[i])
		}
		target := edited[index[i]]
		target.Routes = append(target.Routes, newRoute(move))
	}
	return edited, nil
}

func withoutDefaults(result *types100.Result, moves []Move) *types100.Result {
	edited := *result
	edited.Routes = nil
	for _, route := range result.Routes {
		if !isMoved(route, moves) {
			edited.Routes = append(edited.Routes, route)
		}
	}
	return &edited
}

// isMoved: a default route has a mask of no bits, whatever its address says;
// one in a table of its own does not carry the pod's default traffic.
func isMoved(route *types.Route, moves []Move) bool {
	if route == nil || route.Table != nil && *route.Table != unix.RT_TABLE_MAIN {
		return false
	}
	if ones, _ := route.Dst.Mask.Size(); ones != 0 {
		return false
	}
	for _, move := range moves {
		if isIPv4(route.Dst) == move.Gateway.Is4() {
			return true
		}
	}
	return false
}

// isIPv4: the mask tells the family when the address does not ("0.0.0.0" may
// be 16 bytes long).
func isIPv4(dst net.IPNet) bool { return len(dst.Mask) == net.IPv4len || dst.IP.To4() != nil }

func newRoute(move Move) *types.Route {
	size := move.Gateway.BitLen() / 8
	return &types.Route{
		Dst: net.IPNet{IP: make(net.IP, size), Mask: make(net.IPMask, size)},
		GW:  move.Gateway.AsSlice(),
	}
}
