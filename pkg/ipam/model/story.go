package model

import "fmt"

// String tells the step as a line of a story.
func (e edge) String() string {
	node := fmt.Sprintf("node %c", 'A'+e.node)
	if e.node == collector {
		node = "controller"
	}
	sandbox, address := fmt.Sprintf("sandbox %d", e.box), fmt.Sprintf(".%d", e.addr)
	switch e.what {
	case evAdd:
		return fmt.Sprintf("%s: ADD of %s begins", node, sandbox)
	case evDel:
		return fmt.Sprintf("%s: DEL of %s begins", node, sandbox)
	case evAssign:
		return fmt.Sprintf("%s: logs assign %s to %s", node, address, sandbox)
	case evIntent:
		return fmt.Sprintf("%s: logs intent of %s for %s", node, address, sandbox)
	case evReply:
		return fmt.Sprintf("%s: answers ADD of %s with %s", node, sandbox, address)
	case evFail:
		return fmt.Sprintf("%s: answers ADD of %s with an error, its record is gone", node, sandbox)
	case evRelease:
		return fmt.Sprintf("%s: logs the release of %s and answers DEL", node, sandbox)
	case evReturning:
		return node + ": logs returning"
	case evCancel:
		return node + ": cancels the return without a touch"
	case evLearn:
		return node + ": reads the block"
	case evGone:
		return fmt.Sprintf("%s: sees that %s is gone and logs the release", node, sandbox)
	case evScan:
		return fmt.Sprintf("%s: finds no record of %s in the log", node, address)
	case evSend:
		return fmt.Sprintf("%s: sends %s", node, e.request)
	case evApply:
		return fmt.Sprintf("API: applies %s of %s", e.request, node)
	case evHandle:
		return fmt.Sprintf("%s: has the reply to %s: %s", node, e.request,
			[...]string{"", "done", "precondition failed", "already exists"}[e.request.status])
	case evTimeout:
		return fmt.Sprintf("%s: gives %s up", node, e.request)
	case evCollect:
		return fmt.Sprintf("%s: sends %s", node, e.request)
	case evLate:
		return fmt.Sprintf("API: applies, late, %s of %s", e.request, node)
	case evDrop:
		return fmt.Sprintf("API: never sees %s of %s", e.request, node)
	}
	return node + ": " + map[event]string{
		evKill: "the agent is killed", evStart: "the agent starts with its log",
		evPowerOff: "loses power", evPowerOn: "has power again, in a new boot",
		evLoseLog: "the agent loses its log and gets a new one",
	}[e.what]
}

// String names the request and what it is about.
func (r request) String() string {
	switch r.kind {
	case createLeased:
		return "CREATE block, Leased"
	case createShared:
		return "CREATE block, Shared"
	case toShared:
		return "UPDATE block to Shared"
	case touchBlock:
		return "touch of the block"
	case takeBlock:
		return "UPDATE block to the present boot"
	case deleteBlock:
		return "DELETE block"
	case createClaim:
		return fmt.Sprintf("CREATE claim of .%d for sandbox %d", r.addr, r.box)
	case touchClaim:
		return fmt.Sprintf("touch of claim .%d", r.addr)
	case deleteClaim:
		return fmt.Sprintf("DELETE claim of .%d", r.addr)
	case takeClaim:
		return fmt.Sprintf("UPDATE claim of .%d to sandbox %d", r.addr, r.box)
	case coolClaim:
		return fmt.Sprintf("UPDATE claim of .%d to Cooling", r.addr)
	case keepClaim:
		return fmt.Sprintf("UPDATE claim of .%d to Kept", r.addr)
	}
	return "nothing"
}
