package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

const (
	// patience is how long a ping may take: an IPv6 address is only usable
	// after the kernel has looked for duplicates.
	patience = 10 * time.Second
	// silence is how long nobody must answer.
	silence = 500 * time.Millisecond
)

// traffic pings within hosts, across them and to the outside.
func (w *world) traffic(s *stage) {
	web, db, app := w.pods[0], w.pods[1], w.pods[2]
	ping(s, web, "db over the primary bridge", db.address(s, "eth0", false))
	ping(s, web, "db over the backend bridge", db.address(s, "net2", false))
	ping(s, web, "app over macvlan, across hosts", app.address(s, "net1", false))
	ping(s, web, "app over macvlan, IPv6", app.address(s, "net1", true))
	ping(s, app, "web over macvlan, across hosts", web.address(s, "net1", false))
	ping(s, app, "outside, by its moved default route", netip.MustParseAddr(outside))
	noPing(s, web, "outside: its default route was not moved", netip.MustParseAddr(outside))
	noPing(s, web, "app's primary network: it is another host's", app.address(s, "eth0", false))
}

func ping(s *stage, from *pod, what string, to netip.Addr) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	begin := time.Now()
	if err := from.sandbox.Ping(ctx, to); err != nil {
		s.Fatalf("%s: %w", what, err)
	}
	report(s, "✓", from, to, what, fmt.Sprintf("%.2f ms", float64(time.Since(begin).Microseconds())/1000))
}

func noPing(s *stage, from *pod, what string, to netip.Addr) {
	ctx, cancel := context.WithTimeout(s.ctx, silence)
	defer cancel()
	if err := from.sandbox.Ping(ctx, to); err == nil {
		s.Fatalf("%s → %s was answered, but must not be: %s", from.name, to, what)
	}
	s.must(s.ctx.Err())
	report(s, "✗", from, to, what, "no answer, rightly")
}

func report(s *stage, sign string, from *pod, to netip.Addr, what, how string) {
	s.Logf("%s %-4s → %-12s %-44s %s", sign, from.name, to, what, how)
}
