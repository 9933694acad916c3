package ipam

import (
	"cmp"
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func (s *seen) spaceView(name string) spaceView {
	as, made := s.spaces[name]
	if !made {
		as = ipam.Space{Name: name, Grid: s.grid(name), Mode: ipam.Auto}
	}
	claims := at(s.inSpace, name)
	v := spaceView{
		Name: name, Made: made, Mode: string(cmp.Or(as.Mode, ipam.Auto)), GridV4: as.Grid.V4, GridV6: as.Grid.V6,
		Cooldown: cmp.Or(as.Cooldown, ipam.DefaultCooldown).String(), Whereabouts: as.Whereabouts,
		Bound: claims.bound, Cooling: claims.cooling, Kept: claims.kept,
	}
	for ref, b := range s.blocks {
		switch {
		case ref.Space != name:
		case b.Mode == ipam.Leased:
			v.Leased++
		default:
			v.Shared++
		}
	}
	return v
}

func headOf(b block) blockHead {
	return blockHead{
		Name: b.Ref.String(), Space: b.Ref.Space, Prefix: b.Ref.Prefix.String(), Mode: string(b.Mode),
		Node: b.Owner.Name, Boot: b.Owner.Boot, Suspect: b.Suspect, Told: b.usage.At,
	}
}

func (s *seen) blockView(b block) blockView {
	claims := at(s.inBlock, b.Ref)
	v := blockView{
		blockHead: headOf(b), Used: claims.bound, Cooling: claims.cooling, Kept: claims.kept,
		Size: iprange.OfPrefix(b.Ref.Prefix).Count().Uint64(),
	}
	if b.Mode == ipam.Leased {
		v.Used += usedCount(b)
	}
	return v
}

func (o overview) spaceRows() [][]string {
	rows := [][]string{{"NAME", "MODE", "GRID", "COOLDOWN", "LEASED", "SHARED", "BOUND", "COOLING", "KEPT", "NOTE"}}
	for _, s := range o.Spaces {
		note := ""
		switch {
		case !s.Made:
			note = "not made yet"
		case s.Whereabouts:
			note = "beside Whereabouts"
		}
		rows = append(rows, []string{
			s.Name, s.Mode, fmt.Sprintf("/%d,/%d", s.GridV4, s.GridV6), s.Cooldown, fmt.Sprint(s.Leased), fmt.Sprint(s.Shared),
			fmt.Sprint(s.Bound), fmt.Sprint(s.Cooling), fmt.Sprint(s.Kept), note,
		})
	}
	return rows
}

func (o overview) blockRows(now time.Time) [][]string {
	rows := [][]string{{"NODE", "SPACE", "BLOCK", "MODE", "USED", "COOLING", "KEPT", "TOLD", "NOTE"}}
	for _, b := range o.Blocks {
		told := ago(now, b.Told)
		switch {
		case b.Mode != string(ipam.Leased):
			told = ""
		case told == "":
			told = "never"
		default:
			told += " ago"
		}
		note := ""
		if b.Suspect {
			note = "suspect"
		}
		rows = append(rows, []string{
			b.Node, b.Space, b.Prefix, b.Mode, fmt.Sprintf("%d/%d", b.Used, b.Size), fmt.Sprint(b.Cooling), fmt.Sprint(b.Kept), told, note,
		})
	}
	return rows
}

func (o overview) nodeRows() [][]string {
	rows := [][]string{{"NODE", "BOUND", "COOLING", "KEPT"}}
	if o.Node != nil {
		rows = append(rows, []string{o.Node.Name, fmt.Sprint(o.Node.Bound), fmt.Sprint(o.Node.Cooling), fmt.Sprint(o.Node.Kept)})
	}
	return rows
}
