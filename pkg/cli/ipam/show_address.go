package ipam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// standing is what is known of one address in one space; its JSON form is kept
// stable.
type standing struct {
	Address string `json:"address"`
	Space   string `json:"space,omitempty"`
	// State is Bound, Cooling, Kept (a claim), Leased (a node's, see Owner),
	// Free, Reserved (in a pool's subnet, never given away), or Unknown (in no
	// pool).
	State string `json:"state"`
	// Says is the same in one sentence.
	Says  string     `json:"says"`
	Claim *claimView `json:"claim,omitempty"`
	Block *blockHead `json:"block,omitempty"`
	// Owner is who has it in a leased block, as its node told at Told.
	Owner *ipam.Owner `json:"owner,omitempty"`
	Since time.Time   `json:"since,omitzero"`
	Told  time.Time   `json:"told,omitzero"`
	Pools []string    `json:"pools,omitempty"`

	claim *ipam.Claim
	block *block
	// beside says that Whereabouts allocates in the space too.
	beside bool
}

// claimView is a claim; its JSON form is kept stable.
type claimView struct {
	Name    string      `json:"name"`
	State   string      `json:"state"`
	Owner   ipam.Owner  `json:"owner"`
	Node    *ipam.Node  `json:"node,omitempty"`
	Keep    ipam.Keeper `json:"keep,omitzero"`
	Pool    string      `json:"pool,omitempty"`
	Suspect bool        `json:"suspect,omitempty"`
	Since   time.Time   `json:"since,omitzero"`
}

func viewOf(c ipam.Claim) *claimView {
	v := &claimView{Name: c.Ref.String(), State: string(c.State), Owner: c.Owner, Keep: c.Keep, Pool: c.Pool, Suspect: c.Suspect, Since: c.Since}
	if c.Node != (ipam.Node{}) {
		v.Node = &c.Node
	}
	return v
}

// find reads what is known of the address, in one space or in all that know it.
func find(ctx context.Context, s source, addr netip.Addr, space string) ([]standing, error) {
	all := newSeen(filter{space: space})
	if err := all.readFew(ctx, s); err != nil {
		return nil, err
	}
	if _, err := all.onlySpace(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name(), err)
	}
	var found []standing
	for _, name := range all.spaceNames() {
		if space != "" && space != name {
			continue
		}
		st, err := all.standing(ctx, s, addr, name)
		if err != nil {
			return nil, err
		}
		if space == name || st.State != stateUnknown {
			found = append(found, st)
		}
	}
	if len(found) == 0 {
		found = append(found, standing{Address: addr.String(), State: stateUnknown, Says: "in no pool and no block of any address space"})
	}
	return found, nil
}

// States of a standing without a claim.
const (
	stateLeased   = "Leased"
	stateFree     = "Free"
	stateReserved = "Reserved"
	stateUnknown  = "Unknown"
)

func (s *seen) standing(ctx context.Context, from source, addr netip.Addr, space string) (standing, error) {
	st := standing{Address: addr.String(), Space: space, beside: s.spaces[space].Whereabouts}
	usable := false
	var spanning []string
	for _, p := range s.pools {
		switch {
		case p.Space.Name != space:
		case p.usable.Contains(addr):
			usable = true
			st.Pools = append(st.Pools, p.Name)
		case p.spanned.Contains(addr):
			spanning = append(spanning, p.Name)
		}
	}
	claim, err := from.claim(ctx, ipam.ClaimRef{Space: space, Addr: addr})
	if err == nil {
		st.claim, st.Claim, st.State = &claim, viewOf(claim), string(claim.State)
	} else if !errors.Is(err, ipam.ErrNotFound) {
		return st, err
	}
	ref := ipam.BlockRef{Space: space, Prefix: s.grid(space).Block(addr)}
	b, err := from.block(ctx, ref)
	if err == nil {
		st.block = &b
		head := headOf(b)
		st.Block = &head
	} else if !errors.Is(err, ipam.ErrNotFound) {
		return st, err
	}
	st.judge(addr, usable, spanning)
	return st, nil
}

// judge says in a sentence who has the address.
func (st *standing) judge(addr netip.Addr, usable bool, spanning []string) {
	switch b := st.block; {
	case st.claim != nil:
		st.Since, st.Says = st.claim.Since, claimSays(*st.claim)
	case b != nil && b.Mode == ipam.Leased:
		st.leased(addr, *b)
	case usable:
		st.State, st.Says = stateFree, "free"
	case len(spanning) > 0:
		st.State = stateReserved
		st.Says = fmt.Sprintf("never given away: it lies in the subnet of %s, but is the network's or broadcast address, the gateway, excluded or out of bounds", strings.Join(spanning, ", "))
	case b != nil:
		st.State, st.Says = stateFree, fmt.Sprintf("free, in block %s; no pool has it", b.Ref)
	default:
		st.State, st.Says = stateUnknown, "in no pool and no block"
	}
}

func claimSays(c ipam.Claim) string {
	switch c.State {
	case ipam.Bound:
		return fmt.Sprintf("pod %s has it, %s of network %s", c.Owner.Pod(), c.Owner.IfName, c.Owner.Network)
	case ipam.Kept:
		return fmt.Sprintf("nobody has it; it is kept for %s", c.Keep)
	}
	return fmt.Sprintf("nobody has it; it cools down after pod %s", c.Owner.Pod())
}

// leased looks into what the block's node told.
func (st *standing) leased(addr netip.Addr, b block) {
	st.State, st.Told = stateLeased, b.usage.At
	i := slices.IndexFunc(b.usage.Owners, func(o ipam.AddressOwner) bool { return o.Addr == addr })
	switch {
	case b.Owner.Name == "":
		st.Says = "in a block that was taken from a dead node and that no node leases yet; it may be on the wire still"
	case i >= 0:
		o := b.usage.Owners[i]
		st.Owner, st.Since = &o.Owner, o.Since
		st.Says = fmt.Sprintf("pod %s has it, %s of network %s, on node %s as that told at %s", o.Owner.Pod(), o.Owner.IfName, o.Owner.Network, b.Owner.Name, clock(b.usage.At))
	case b.usage.At.IsZero():
		st.Says = fmt.Sprintf("in a block leased by node %s, which has told nothing of it yet", b.Owner.Name)
	case isUsed(addr, b):
		st.Says = fmt.Sprintf("in use on node %s as that told at %s; its list of owners is cut before it", b.Owner.Name, clock(b.usage.At))
	default:
		st.Says = fmt.Sprintf("in a leased block of node %s, not in its list of %s", b.Owner.Name, clock(b.usage.At))
	}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05Z") }

func isUsed(addr netip.Addr, b block) bool {
	for one := range used(b) {
		if one == addr {
			return true
		}
	}
	return false
}

func (e *env) showAddress(ctx context.Context, s source, text, space string) error {
	addr, err := parseAddr(text)
	if err != nil {
		return err
	}
	found, err := find(ctx, s, addr, space)
	if err != nil {
		return err
	}
	if e.output == string(asJSON) {
		return printJSON(e.Out, found)
	}
	for i, st := range found {
		if i > 0 {
			fmt.Fprintln(e.Out)
		}
		if err := st.print(e.Out, e.now()); err != nil {
			return err
		}
	}
	return nil
}

func (st standing) print(out io.Writer, now time.Time) error {
	where := ""
	if st.Space != "" {
		where = " in space " + st.Space
	}
	fmt.Fprintf(out, "%s%s: %s\n", st.Address, where, st.Says)
	var rows [][]string
	row := func(name, format string, args ...any) {
		rows = append(rows, []string{"  " + name, fmt.Sprintf(format, args...)})
	}
	if c := st.claim; c != nil {
		row("claim", "%s, %s since %s", c.Ref, c.State, stamp(now, c.Since))
		ownerRows(row, c.Owner, c.State == ipam.Bound)
		row("node", "%s", nodeText(c.Node))
		if !c.Keep.IsZero() {
			row("kept for", "%s", c.Keep)
		}
		if c.Suspect {
			row("suspect", "a node that is believed dead had it; it is asked for on the wire before its next use")
		}
	}
	if st.Owner != nil {
		row("since", "%s", stamp(now, st.Since))
		ownerRows(row, *st.Owner, true)
	}
	if b := st.block; b != nil {
		row("block", "%s, %s", b.Ref, blockText(*b, now))
	}
	if len(st.Pools) > 0 {
		row("pool", "%s", strings.Join(st.Pools, ", "))
	}
	return table(out, rows)
}

// ownerRows are an owner, or who had the address last.
func ownerRows(row func(name, format string, args ...any), o ipam.Owner, present bool) {
	last := ""
	if !present {
		last = "last "
	}
	uid := ""
	if o.PodUID != "" {
		uid = " (UID " + o.PodUID + ")"
	}
	row(last+"pod", "%s%s", o.Pod(), uid)
	row(last+"interface", "%s of network %s", o.IfName, o.Network)
	row(last+"container", "%s", o.ContainerID)
}

func nodeText(n ipam.Node) string {
	switch {
	case n.Name == "":
		return "none"
	case n.Log == "":
		return n.Name + " (imported; its agent hasn't taken it over yet)"
	}
	return fmt.Sprintf("%s (boot %s)", n.Name, n.Boot)
}

func blockText(b block, now time.Time) string {
	text := string(b.Mode)
	if b.Mode == ipam.Leased {
		text += fmt.Sprintf(" by node %s, %d of %s used, told %s", nodeText(b.Owner), usedCount(b), iprange.OfPrefix(b.Ref.Prefix).Count(), stamp(now, b.usage.At))
	}
	if b.Suspect {
		text += ", suspect"
	}
	return text
}
