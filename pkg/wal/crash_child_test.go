package wal

import (
	"fmt"
	"os"
	"strings"
)

// crashChild goes on with the log of a folder: numbered records, some in
// flight at once, and snapshots that list all numbers. It says what it ordered
// before it orders it and what is durable when it knows so.
func crashChild(dir string) {
	l, r, err := Open(Options{Dir: dir, Reserve: 8192})
	quit(err)
	all := append(strings.Fields(string(r.Snapshot)), stateOf(r).Records...)
	var last *Ticket
	for i := range 60 {
		record := fmt.Sprintf("%d%s", len(all)+1, strings.Repeat("x", i*7))
		fmt.Fprintln(os.Stdout, "ordered", record)
		last, err = l.Append([]byte(record))
		quit(err)
		all = append(all, record)
		if i%3 == 0 {
			quit(last.Wait())
			fmt.Fprintln(os.Stdout, "synced", len(all))
		}
		if i%20 == 10 {
			settle(l)
			quit(l.Compact([]byte(strings.Join(all, " "))))
		}
	}
	quit(last.Wait())
	fmt.Fprintln(os.Stdout, "synced", len(all))
	quit(l.Close())
}

func quit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
