package whereabouts

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Leaked says what becomes of entries whose pod is gone.
type Leaked string

const (
	// CoolLeaked keeps the address back as a Cooling claim, to be asked for on
	// the wire before it is used.
	CoolLeaked Leaked = ""
	// SkipLeaked leaves the address free.
	SkipLeaked Leaked = "skip"
)

// Input is everything that Survey looks at, read from the API server.
type Input struct {
	Pools        []IPPool
	Reservations []Reservation
	Slices       []NodeSlicePool
	Definitions  []Definition
	// Flat is the file whereabouts.conf, empty if there is none.
	Flat []byte
	Pods []Pod
	// Spaces that exist; others get the default grid.
	Spaces []ipam.Space
	// Beside makes spaces in which Whereabouts goes on allocating.
	Beside bool
	Leaked Leaked
	// Now is written into claims, for people.
	Now time.Time
}

// Pod is a pod that exists.
type Pod struct {
	Namespace, Name, UID string
	// Node is empty until the pod is scheduled.
	Node       string
	Interfaces []Interface
}

// Interface is one element of a pod's network-status.
type Interface struct {
	IfName string
	// Definition is namespace/name; empty for the cluster network.
	Definition string
	Addrs      []netip.Addr
}

// FindingKind says what a Finding is about.
type FindingKind string

// Kinds of findings.
const (
	// FindingUnreadable: a part that can't be read, and is left out.
	FindingUnreadable FindingKind = "unreadable"
	// FindingTruncated: Whereabouts cut an IPv6 offset to 64 bits.
	FindingTruncated FindingKind = "truncated"
	// FindingLeaked: the entry's pod is gone.
	FindingLeaked FindingKind = "leaked"
	// FindingDisagree: pool and reservations disagree.
	FindingDisagree FindingKind = "disagree"
	// FindingDuplicate: two owners of one address.
	FindingDuplicate FindingKind = "duplicate"
	// FindingDefinition: the network definitions don't tell enough, or differ.
	FindingDefinition FindingKind = "definition"
	// FindingBlocked: something in our own objects is in the way.
	FindingBlocked FindingKind = "blocked"
)

// Finding is something that a person should know.
type Finding struct {
	Kind FindingKind
	Text string
}

// Wanted is what should exist after the takeover.
type Wanted struct {
	// Spaces by name, and Claims by reference, in order.
	Spaces   []ipam.Space
	Claims   []ipam.Claim
	Findings []Finding
}

// Survey finds out which claims Whereabouts' objects come to. It does no I/O.
func Survey(in Input) Wanted {
	s := newSurvey(in)
	pools := slices.SortedFunc(slices.Values(in.Pools), func(a, b IPPool) int { return cmp.Compare(a.Name, b.Name) })
	for _, pool := range pools {
		s.pool(pool)
	}
	s.leftReservations()
	return s.wanted()
}

// candidate is one claim that wants an address.
type candidate struct {
	claim ipam.Claim
	// rank decides when two want the same address; higher wins.
	rank   int
	source string
}

// What counts when two want the same address, with 1 more for an entry whose
// reservation agrees: a Cooling claim has no more than that.
const (
	rankKept  = 2
	rankBound = 3
)

type survey struct {
	in           Input
	networks     []network
	reservations map[string]Reservation
	used         map[string]bool
	pods         map[string]Pod
	spaces       map[string]ipam.Space
	claims       map[ipam.ClaimRef]candidate
	findings     []Finding
}

func newSurvey(in Input) *survey {
	s := &survey{
		in: in, reservations: map[string]Reservation{}, used: map[string]bool{},
		pods: map[string]Pod{}, spaces: map[string]ipam.Space{}, claims: map[ipam.ClaimRef]candidate{},
	}
	for _, r := range in.Reservations {
		s.reservations[r.Name] = r
	}
	for _, p := range in.Pods {
		s.pods[p.Namespace+"/"+p.Name] = p
	}
	flat, err := parseFlat(in.Flat)
	if err != nil {
		s.note(FindingUnreadable, "%v; network definitions count without it", err)
	}
	for _, d := range in.Definitions {
		networks, err := d.networks(flat)
		if err != nil {
			s.note(FindingUnreadable, "network definition %s: %v", d.ref(), err)
		}
		s.networks = append(s.networks, networks...)
	}
	return s
}

func (s *survey) note(kind FindingKind, format string, args ...any) {
	if f := (Finding{kind, fmt.Sprintf(format, args...)}); !slices.Contains(s.findings, f) {
		s.findings = append(s.findings, f)
	}
}

func (s *survey) wanted() Wanted {
	w := Wanted{Findings: s.findings}
	for _, name := range slices.Sorted(maps.Keys(s.spaces)) {
		w.Spaces = append(w.Spaces, s.spaces[name])
	}
	for _, c := range s.claims {
		w.Claims = append(w.Claims, c.claim)
	}
	slices.SortFunc(w.Claims, func(a, b ipam.Claim) int {
		return cmp.Or(cmp.Compare(a.Ref.Space, b.Ref.Space), a.Ref.Addr.Compare(b.Ref.Addr))
	})
	return w
}

func (s *survey) pool(pool IPPool) {
	o, ok := s.originOf(pool)
	if !ok {
		return
	}
	for _, space := range o.spaces {
		s.space(space)
	}
	keys := slices.SortedFunc(maps.Keys(pool.Spec.Allocations), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	for _, key := range keys {
		entry := pool.Spec.Allocations[key]
		addr, ok := s.locate(o, key, entry)
		if !ok {
			continue
		}
		rank := s.compare(o, addr, entry)
		c := s.claimOf(o, addr, entry)
		if c.State == ipam.Bound {
			rank += rankBound
		}
		for _, space := range o.spaces {
			s.want(space, addr, candidate{claim: c, rank: rank, source: o.pool})
		}
	}
}

// space notes a space that is needed, unless Whereabouts can't be stood beside
// in it.
func (s *survey) space(name string) {
	i := slices.IndexFunc(s.in.Spaces, func(as ipam.Space) bool { return as.Name == name })
	if i >= 0 {
		s.spaces[name] = s.in.Spaces[i]
		if s.in.Beside && !s.in.Spaces[i].Whereabouts {
			s.note(FindingBlocked, "address space %s exists without whereabouts: true; set it before Whereabouts and meta-cni allocate in it at the same time", name)
		}
		return
	}
	as := ipam.Space{Name: name, Grid: iprange.DefaultGrid(), Mode: ipam.Auto}
	if s.in.Beside {
		as.Mode, as.Whereabouts = ipam.Claims, true
		if _, err := networkOf(name); err != nil {
			s.note(FindingBlocked, "left out: %v", err)
			return
		}
	}
	s.spaces[name] = as
}

// want enters a claim, unless a better one has the address.
func (s *survey) want(space string, addr netip.Addr, c candidate) {
	if _, ok := s.spaces[space]; !ok || c.claim.State == ipam.Cooling && s.in.Leaked == SkipLeaked {
		return
	}
	c.claim.Ref = ipam.ClaimRef{Space: space, Addr: addr}
	before, taken := s.claims[c.claim.Ref]
	if taken && before.claim.Owner.Key != c.claim.Owner.Key && before.claim.State != ipam.Cooling && c.claim.State != ipam.Cooling {
		s.note(FindingDuplicate, "address %s of space %s is given to %s (%s, %s) and to %s (%s, %s); if both run, restart one of them",
			addr, space, before.claim.Owner.Pod(), before.claim.State, before.source, c.claim.Owner.Pod(), c.claim.State, c.source)
	}
	if !taken || c.rank > before.rank {
		s.claims[c.claim.Ref] = c
	}
}

// claimOf is the claim that an entry comes to.
func (s *survey) claimOf(o origin, addr netip.Addr, entry Allocation) ipam.Claim {
	namespace, name, _ := strings.Cut(entry.PodRef, "/")
	c := ipam.Claim{State: ipam.Bound, Pool: o.pool, Since: s.in.Now}
	if len(o.networks) == 1 {
		c.Pool = o.networks[0].definition
	}
	pod, lives := s.pods[entry.PodRef]
	ifName, cni := s.names(o, addr, entry, pod)
	c.Owner = ipam.Owner{
		Key:          ipam.Key{ContainerID: entry.ID, IfName: ifName, Network: cni},
		PodNamespace: namespace, PodName: name, PodUID: pod.UID,
	}
	if entry.ID == "" {
		c.Owner.ContainerID = ipam.Unknown
	}
	switch {
	case !lives:
		s.note(FindingLeaked, "%s: %s: pod %s doesn't exist", o.pool, addr, orNone(entry.PodRef))
		c.State, c.Suspect = ipam.Cooling, true
	case pod.Node == "":
		s.note(FindingLeaked, "%s: %s: pod %s has no node yet, so the entry is that of an earlier pod of this name", o.pool, addr, entry.PodRef)
		c.State, c.Suspect, c.Owner.PodUID = ipam.Cooling, true, ""
	default:
		c.Node = ipam.Node{Name: pod.Node}
	}
	return c
}

// names are the interface and the CNI network of an entry: from the pod's own
// network-status where that tells, else from the entry and the definitions.
func (s *survey) names(o origin, addr netip.Addr, entry Allocation, pod Pod) (ifName, cni string) {
	ifName = entry.IfName
	definition := ""
	for _, i := range pod.Interfaces {
		if slices.Contains(i.Addrs, addr) && (ifName == "" || ifName == i.IfName) || ifName != "" && ifName == i.IfName {
			ifName, definition = i.IfName, i.Definition
			break
		}
	}
	var names []string
	for _, n := range o.networks {
		if definition == n.definition {
			names = []string{n.cni}
			break
		}
		names = append(names, n.cni)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if ifName == "" {
		ifName = ipam.Unknown
	}
	if len(names) == 1 {
		return ifName, names[0]
	}
	s.note(FindingDefinition, "%s: %s of pod %s: the CNI network isn't known (%d definitions fit); its DEL finds the claim by the container's ID", o.pool, addr, orNone(entry.PodRef), len(names))
	return ifName, ipam.Unknown
}

func orNone(podRef string) string {
	if podRef == "" {
		return "(none)"
	}
	return podRef
}
