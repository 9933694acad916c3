package main

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// The picture is 96 columns wide: a host's box, then the rail that is the
// underlay.
const (
	hostWidth = 90
	podWidth  = 68
)

// draw draws the hosts one below the other, each with its pods, and at the
// right the underlay, named by what the cables really end in.
func draw(v view) string {
	var lines []string
	var cables []int
	for _, host := range v.hosts {
		box := drawHost(host)
		cables = append(cables, len(lines)+len(box)-2)
		lines = append(lines, box...)
	}
	for i, line := range lines {
		lines[i] = line + rail(i, cables)
	}
	name := "underlay: " + v.hosts[0].cable
	return strings.Join(lines, "\n") + "\n" + strings.Repeat(" ", hostWidth+3-width(name)) + name + "\n"
}

// rail is the underlay beside a line: it begins at the first host's cable and
// ends at the last one's.
func rail(line int, cables []int) string {
	first, last := cables[0], cables[len(cables)-1]
	switch {
	case line < first || line > last:
		return ""
	case line == first:
		return "──┐"
	case line == last:
		return "──┘"
	case slices.Contains(cables, line):
		return "──┤"
	default:
		return "  │"
	}
}

func drawHost(h hostView) []string {
	lines := []string{top(h.name, hostWidth)}
	inner := hostWidth - 4
	for _, p := range h.pods {
		for _, line := range drawPod(p, inner) {
			lines = append(lines, "│ "+pad(line, inner)+" │")
		}
	}
	if h.extra != "" {
		lines = append(lines, "│ "+pad(h.extra, inner)+" │")
	}
	nic := h.nic + " "
	lines = append(lines, "│ "+nic+strings.Repeat("─", inner+1-width(nic))+"┼")
	return append(lines, bottom(hostWidth))
}

func drawPod(p podView, inner int) []string {
	lines := []string{top("pod "+p.name, podWidth)}
	for _, i := range p.interfaces {
		text := pad(i.name, 5) + pad(i.addresses, 32)
		text = pad(text, podWidth-4-width(i.note)) + i.note
		lines = append(lines, pad("│ "+text+" ├─ "+i.to, inner))
	}
	return append(lines, bottom(podWidth))
}

func top(title string, size int) string {
	head := "┌─ " + title + " "
	return head + strings.Repeat("─", size-1-width(head)) + "┐"
}

func bottom(size int) string { return "└" + strings.Repeat("─", size-2) + "┘" }

// pad fills a text up to a width; a longer one is cut.
func pad(text string, size int) string {
	if n := width(text); n < size {
		return text + strings.Repeat(" ", size-n)
	}
	return string([]rune(text)[:size])
}

func width(text string) int { return utf8.RuneCountInString(text) }
