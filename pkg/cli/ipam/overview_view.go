package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// overview is what `show` prints; its JSON form is kept stable.
type overview struct {
	Pools  []poolView  `json:"pools"`
	Spaces []spaceView `json:"spaces"`
	Blocks []blockView `json:"blocks"`
	// Node has the claims of the node that was asked for.
	Node       *nodeView `json:"node,omitempty"`
	Unreadable []string  `json:"unreadable,omitempty"`
}

// poolView is one family of a pool.
type poolView struct {
	Name   string   `json:"name"`
	Space  string   `json:"space"`
	Family int      `json:"family,omitempty"`
	Ranges []string `json:"ranges"`
	// Usable and Free are decimal text: IPv6 is larger than JSON's numbers.
	Usable     string `json:"usable"`
	Used       uint64 `json:"used"`
	Cooling    uint64 `json:"cooling"`
	Kept       uint64 `json:"kept"`
	Free       string `json:"free"`
	Definition string `json:"definition,omitempty"`
	Error      string `json:"error,omitempty"`

	usable, free iprange.Uint128
}

type spaceView struct {
	Name        string `json:"name"`
	Made        bool   `json:"made"`
	Mode        string `json:"mode"`
	GridV4      int    `json:"gridV4"`
	GridV6      int    `json:"gridV6"`
	Cooldown    string `json:"cooldown"`
	Whereabouts bool   `json:"whereabouts,omitempty"`
	Leased      int    `json:"leased"`
	Shared      int    `json:"shared"`
	Bound       uint64 `json:"bound"`
	Cooling     uint64 `json:"cooling"`
	Kept        uint64 `json:"kept"`
}

// blockHead is a block, and when its node told of it last.
type blockHead struct {
	Name    string    `json:"name"`
	Space   string    `json:"space"`
	Prefix  string    `json:"prefix"`
	Mode    string    `json:"mode"`
	Node    string    `json:"node,omitempty"`
	Boot    string    `json:"boot,omitempty"`
	Suspect bool      `json:"suspect,omitempty"`
	Told    time.Time `json:"told,omitzero"`
}

// blockView is a block with what is taken of it.
type blockView struct {
	blockHead
	Used    uint64 `json:"used"`
	Cooling uint64 `json:"cooling"`
	Kept    uint64 `json:"kept"`
	Size    uint64 `json:"size"`
}

type nodeView struct {
	Name    string `json:"name"`
	Bound   uint64 `json:"bound"`
	Cooling uint64 `json:"cooling"`
	Kept    uint64 `json:"kept"`
}

func (s *seen) overview() overview {
	o := overview{Pools: []poolView{}, Spaces: []spaceView{}, Blocks: []blockView{}}
	space, _ := s.onlySpace()
	onlyNode := s.filter.node != "" && space == ""
	for _, p := range s.pools {
		if !onlyNode && (s.filter.pool == "" || s.filter.pool == p.Name) && (space == "" || space == p.Space.Name) {
			o.Pools = append(o.Pools, p.views()...)
		}
	}
	for _, name := range s.spaceNames() {
		if !onlyNode && (space == "" || space == name) {
			o.Spaces = append(o.Spaces, s.spaceView(name))
		}
	}
	for _, b := range s.blocks {
		if s.wants(b) {
			o.Blocks = append(o.Blocks, s.blockView(b))
		}
	}
	slices.SortFunc(o.Blocks, func(a, b blockView) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Space, b.Space), comparePrefix(a.Prefix, b.Prefix))
	})
	if s.filter.node != "" {
		o.Node = &nodeView{s.filter.node, s.inNode.bound, s.inNode.cooling, s.inNode.kept}
	}
	for _, err := range s.odd {
		o.Unreadable = append(o.Unreadable, err.Error())
	}
	return o
}

func comparePrefix(a, b string) int {
	left, errA := netip.ParsePrefix(a)
	right, errB := netip.ParsePrefix(b)
	if errA != nil || errB != nil {
		return cmp.Compare(a, b)
	}
	return left.Addr().Compare(right.Addr())
}

// wants says whether the filter admits a block.
func (s *seen) wants(b block) bool {
	if s.filter.node != "" && b.Owner.Name != s.filter.node {
		return false
	}
	for _, p := range s.pools {
		if p.Name == s.filter.pool {
			return p.usable.Overlaps(iprange.SetOf(iprange.OfPrefix(b.Ref.Prefix)))
		}
	}
	return true
}

// views are one for each family; a pool that can't be read has one.
func (p *poolCount) views() []poolView {
	if p.bad != nil {
		return []poolView{{Name: p.Name, Space: p.Space.Name, Ranges: p.rangesOf(0), Usable: "0", Free: "0", Definition: p.Definition, Error: p.bad.Error()}}
	}
	var views []poolView
	for _, f := range p.families {
		v := poolView{
			Name: p.Name, Space: p.Space.Name, Family: f.family, Ranges: p.rangesOf(f.family), Definition: p.Definition,
			Used: f.leased + f.claims.bound, Cooling: f.claims.cooling, Kept: f.claims.kept, usable: f.usable.Count(), free: f.free(),
		}
		v.Usable, v.Free = v.usable.String(), v.free.String()
		views = append(views, v)
	}
	return views
}

// rangesOf are the ranges of a family as written, or all of them for 0.
func (p *poolCount) rangesOf(family int) []string {
	texts := []string{}
	for _, r := range p.Ranges {
		if is6 := strings.Contains(r.Spec.Range, ":"); family == 0 || is6 == (family == 6) {
			texts = append(texts, rangeText(r.Spec))
		}
	}
	return texts
}

// rangeText is a range with its bounds.
func rangeText(s iprange.Spec) string {
	if s.Start == "" && s.End == "" {
		return s.Range
	}
	return fmt.Sprintf("%s[%s-%s]", s.Range, s.Start, s.End)
}
