package ipam

import (
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"text/tabwriter"
	"time"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// printJSON writes a value indented, with a line end.
func printJSON(out io.Writer, value any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(value)
}

// table writes rows in columns.
func table(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			if cell == "" {
				cell = "-"
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprint(w, "\n")
	}
	return w.Flush()
}

// ago is how long before now a time is, as kubectl writes it; empty for none.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// stamp is a time for people, with how long ago it is.
func stamp(now, t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return fmt.Sprintf("%s (%s ago)", t.UTC().Format("2006-01-02 15:04:05Z"), ago(now, t))
}

// short is a count that people can read: IPv6 has more digits than that.
func short(n iprange.Uint128) string {
	if n.Hi == 0 && n.Lo < 1e10 {
		return n.String()
	}
	if n.Hi == 0 {
		return fmt.Sprintf("~2^%d", bits.Len64(n.Lo-1))
	}
	return fmt.Sprintf("~2^%d", 64+bits.Len64(n.Hi-1))
}
