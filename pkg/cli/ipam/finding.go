package ipam

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// level is how bad a finding is, and how sure.
type level string

const (
	// duplicate: two live pods have one address.
	duplicate level = "DUPLICATE"
	// wrong: it is so, and somebody should do something, or soon will.
	wrong level = "WRONG"
	// suspicious: it looks wrong, and may be right.
	suspicious level = "SUSPICIOUS"
	// note: nothing is wrong, but an operator should know.
	note level = "NOTE"
)

func (l level) order() int {
	return slices.Index([]level{duplicate, wrong, suspicious, note}, l)
}

// kind is what a finding is about, for --ignore and for programs.
type kind string

// Kinds of findings.
const (
	kindDuplicate  kind = "duplicate"
	kindNodeGone   kind = "node-gone"
	kindRebooted   kind = "rebooted"
	kindSilent     kind = "silent"
	kindSuspect    kind = "suspect"
	kindPodGone    kind = "pod-gone"
	kindPodOther   kind = "pod-replaced"
	kindPodDone    kind = "pod-finished"
	kindPodStatus  kind = "pod-status"
	kindNoNode     kind = "no-node"
	kindImported   kind = "imported"
	kindKept       kind = "kept"
	kindCooling    kind = "cooling"
	kindStray      kind = "stray"
	kindGrid       kind = "grid"
	kindUnreadable kind = "unreadable"
	kindPool       kind = "pool"
	kindFull       kind = "nearly-full"
	kindOverlap    kind = "overlap"
)

// kinds are all of them, with what each is, in the order of the help.
func kinds() [][2]string {
	return [][2]string{
		{string(kindDuplicate), "two live pods have one address"},
		{string(kindStray), "a claim where no Shared block is: another node may give its address away"},
		{string(kindUnreadable), "an object that can't be read, or whose name and spec disagree"},
		{string(kindGrid), "a block that the space's grid doesn't have"},
		{string(kindPool), "a pool whose ranges can't be read"},
		{string(kindFull), "a pool with more than 90 % of its addresses taken"},
		{string(kindNodeGone), "blocks or claims of a node that doesn't exist"},
		{string(kindRebooted), "blocks or claims of an earlier boot, or of a lost log, of a node"},
		{string(kindSilent), "a node whose agent has not been heard of for 15 minutes"},
		{string(kindNoNode), "a claim in use that belongs to no node"},
		{string(kindPodGone), "a claim whose pod doesn't exist"},
		{string(kindPodOther), "a claim whose pod has another UID"},
		{string(kindPodDone), "a claim whose pod has finished"},
		{string(kindPodStatus), "a claim whose address the pod's network-status doesn't have"},
		{string(kindImported), "an imported claim that no agent took over in 15 minutes"},
		{string(kindKept), "an address that is kept for somebody who is gone"},
		{string(kindCooling), "an address that cools down for more than an hour"},
		{string(kindSuspect), "a block that a dead node had"},
		{string(kindOverlap), "pools of one space whose ranges overlap"},
	}
}

// finding is one thing that an operator should know; its JSON form is kept
// stable.
type finding struct {
	Level level `json:"level"`
	Kind  kind  `json:"kind"`
	// Object is what it is about: IPClaim default.10.0.0.5, node n1.
	Object string `json:"object"`
	Text   string `json:"text"`
	// Why it is believed, and what to Do about it.
	Why string `json:"why"`
	Do  string `json:"do"`

	// claim and pods are looked at again before the finding is told.
	claim *ipam.Claim
	pods  []*pod
}

func (f finding) print(out io.Writer) {
	fmt.Fprintf(out, "%s %s: %s (%s)\n", f.Level, f.Object, f.Text, f.Kind)
	fmt.Fprintf(out, "  why: %s\n  do:  %s\n", f.Why, f.Do)
}

func sortFindings(all []finding) {
	slices.SortStableFunc(all, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.Level.order(), b.Level.order()), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Text, b.Text))
	})
}

// some is the first few of many names.
func some(names []string) string {
	const few = 5
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
