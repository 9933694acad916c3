package iprange

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Spec is a range as a network definition or a pool writes it, with the
// meaning that Whereabouts gives to its keys.
type Spec struct {
	// Range is a CIDR, first-last/prefix, or first-last (no subnet: every
	// address is usable).
	Range string
	// Start and End narrow the range. They give way to those of
	// first-last/prefix, as in Whereabouts.
	Start, End string
	// Exclude has single addresses, CIDRs and first-last.
	Exclude []string
	// Gateways are taken out when ExcludeGateway says so.
	Gateways       []netip.Addr
	ExcludeGateway bool
	// Layer3 (enable_l3) makes the first and the last address of the subnet
	// usable; the other two do so for one of them.
	Layer3, IncludeNetwork, IncludeBroadcast bool
}

// Window is what a Spec comes to.
type Window struct {
	// Subnet is masked; the zero Prefix when the range was first-last.
	Subnet netip.Prefix
	// Usable are the addresses that may be given away, at least one.
	Usable Set
	// Notes tell what was written and has no effect, in the operator's words.
	Notes []string
}

// Resolve reads the spec. An error names the text that is wrong and how it
// should be; bounds outside of the usable addresses are no error but a note,
// since Whereabouts takes them without a word.
func (s Spec) Resolve() (Window, error) {
	subnet, start, end, err := s.split()
	if err != nil {
		return Window{}, err
	}
	window := Window{Subnet: subnet}
	all, usable := s.frame(subnet, start, end)
	if subnet.IsValid() {
		usable = window.narrow(all, usable, start, end)
	}
	window.Usable = SetOf(usable)
	if err := window.exclude(s.Exclude, all); err != nil {
		return Window{}, fmt.Errorf("range %q: exclude: %w", s.Range, err)
	}
	if s.ExcludeGateway {
		for _, gateway := range s.Gateways {
			window.Usable = window.Usable.Subtract(SetOf(Single(gateway)))
		}
	}
	if window.Usable.IsEmpty() {
		return Window{}, fmt.Errorf("range %q has no usable address left; widen it or exclude less", s.Range)
	}
	return window, nil
}

// split takes the text apart; the bounds are zero when there is none.
func (s Spec) split() (subnet netip.Prefix, start, end netip.Addr, err error) {
	fail := func(what string, err error) (netip.Prefix, netip.Addr, netip.Addr, error) {
		return netip.Prefix{}, netip.Addr{}, netip.Addr{}, fmt.Errorf("range %q: %s%w", s.Range, what, err)
	}
	startText, endText := s.Start, s.End
	first, rest, isPair := strings.Cut(s.Range, "-")
	if isPair {
		startText = first
		endText, _, _ = strings.Cut(rest, "/")
	}
	if start, err = optional(startText); err != nil {
		return fail("start: ", err)
	}
	if end, err = optional(endText); err != nil {
		return fail("end: ", err)
	}
	if isPair && (!start.IsValid() || !end.IsValid()) {
		return fail("", fmt.Errorf("an end is missing; write first-last or first-last/prefix"))
	}
	if isPair && !strings.Contains(rest, "/") {
		_, err := Between(start, end)
		if err != nil {
			return fail("", err)
		}
		return netip.Prefix{}, start, end, nil
	}
	if !isPair {
		rest = s.Range
	}
	if subnet, err = ParsePrefix(rest); err != nil {
		return fail("", err)
	}
	subnet = subnet.Masked()
	if isPair && !subnet.Contains(start) {
		return fail("", fmt.Errorf("start %s lies outside of %s; begin within it", start, subnet))
	}
	return subnet, start, end, nil
}

// frame is the whole range and the part that hosts may have.
func (s Spec) frame(subnet netip.Prefix, start, end netip.Addr) (all, usable Range) {
	if !subnet.IsValid() {
		all = Range{start, end}
		return all, all
	}
	all = OfPrefix(subnet)
	if subnet.Bits() >= subnet.Addr().BitLen()-1 || s.Layer3 {
		return all, all
	}
	usable = Range{all.first.Next(), all.last.Prev()}
	if s.IncludeNetwork {
		usable.first = all.first
	}
	if s.IncludeBroadcast {
		usable.last = all.last
	}
	return all, usable
}

// narrow applies start and end, or notes why not.
func (w *Window) narrow(all, usable Range, start, end netip.Addr) Range {
	narrowed := usable
	if start.IsValid() {
		if usable.Contains(start) {
			narrowed.first = start
		} else if start != all.first {
			w.note("start %s lies outside of the usable %s-%s and has no effect", start, usable.first, usable.last)
		}
	}
	if end.IsValid() {
		switch {
		case narrowed.Contains(end):
			narrowed.last = end
		case usable.Contains(end):
			w.note("end %s lies below the start %s and has no effect", end, narrowed.first)
		case end != all.last:
			w.note("end %s lies outside of the usable %s-%s and has no effect", end, usable.first, usable.last)
		}
	}
	return narrowed
}

// exclude takes the texts out of the usable set.
func (w *Window) exclude(texts []string, all Range) error {
	for _, text := range texts {
		hole, err := Parse(text)
		if err != nil {
			return err
		}
		if !all.Overlaps(hole) {
			w.note("exclude %s lies outside of the range and has no effect", text)
		}
		w.Usable = w.Usable.Subtract(SetOf(hole))
	}
	return nil
}

func (w *Window) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(w.Notes, text) {
		w.Notes = append(w.Notes, text)
	}
}

// optional reads an address that may be left out.
func optional(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	return ParseAddr(text)
}
