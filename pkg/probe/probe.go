package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

var (
	// ErrInUse says that a station has the address, or asks for it too.
	ErrInUse = errors.New("the address is in use")
	// ErrCannotAsk says that nothing is known about the address: there is no
	// such interface, it is no Ethernet or has no carrier, or the kernel refused.
	// The text tells which. It is worth a line in the log, not a failed ADD.
	ErrCannotAsk = errors.New("cannot ask the network")
)

// Conflict is the station that was heard. It wraps ErrInUse.
type Conflict struct {
	Addr netip.Addr
	MAC  net.HardwareAddr
	// IfName is the sandbox's interface on which it was heard.
	IfName string
	// Asks says that the station doesn't have the address but probes for it at
	// the same time.
	Asks bool
}

// Error names the address, the station and the interface.
func (c *Conflict) Error() string {
	does := "has it"
	if c.Asks {
		does = "is about to take it"
	}
	return fmt.Sprintf("%v: %s: the station with MAC %s on the network of interface %s %s", ErrInUse, c.Addr, c.MAC, c.IfName, does)
}

// Unwrap is ErrInUse.
func (c *Conflict) Unwrap() error { return ErrInUse }

// Timing says how long to ask. The longest time is
// Carrier + Jitter + (Probes-1)·(Between+Jitter) + Last, and a little for the
// kernel's work.
type Timing struct {
	// Probes is how many are sent; less than 1 means 1.
	Probes int
	// Between two probes is this time and a random part of Jitter. The first
	// one waits for a random part of Jitter alone: pods start together.
	Between, Jitter time.Duration
	// Last is how long an answer to the last probe may take.
	Last time.Duration
	// Carrier is how long the link may take to have one.
	Carrier time.Duration
}

// DefaultTiming takes 0.5 to 0.8 s, and up to 1 s where the carrier is late.
// RFC 5227 would take 4 to 9 s: it thinks of networks that need more than a
// second to forward.
func DefaultTiming() Timing {
	return Timing{
		Probes:  3,
		Between: 100 * time.Millisecond,
		Jitter:  100 * time.Millisecond,
		Last:    300 * time.Millisecond,
		Carrier: 200 * time.Millisecond,
	}
}

// pause is the time before the n-th probe, counted from 0; after the last it
// is what an answer may take.
func (t Timing) pause(n int) time.Duration {
	var jitter time.Duration
	if t.Jitter > 0 {
		jitter = rand.N(t.Jitter)
	}
	switch {
	case n == 0:
		return jitter
	case n >= max(t.Probes, 1):
		return t.Last
	}
	return t.Between + jitter
}

// Prober asks. It is safe for concurrent use; calls for one interface wait for
// each other.
type Prober struct {
	timing Timing
	turns  turns
}

// New makes a Prober. A process needs one: two don't know of each other.
func New(timing Timing) *Prober {
	return &Prober{timing: timing, turns: turns{taken: map[turn]*place{}}}
}

// Address is nil when nobody answered for addr on the network of interface
// ifName in the namespace at netnsPath (absolute, not the host's own). The
// interface may be down and without addresses, as bridge and macvlan leave it
// while they call their IPAM: it is then up for the time of the call. Errors: a
// *Conflict, ErrCannotAsk, or the context's.
func (p *Prober) Address(ctx context.Context, netnsPath, ifName string, addr netip.Addr) error {
	err := p.ask(ctx, netnsPath, ifName, addr.Unmap())
	if err == nil || errors.Is(err, ErrInUse) {
		return err
	}
	err = fmt.Errorf("ask on interface %q whether %s is in use: %w", ifName, addr, err)
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(err, cause) {
			return err
		}
		return fmt.Errorf("%w: %w", cause, err)
	}
	return fmt.Errorf("%w: %w", ErrCannotAsk, err)
}

func (p *Prober) ask(ctx context.Context, netnsPath, ifName string, addr netip.Addr) (err error) {
	if err := checkAddress(addr); err != nil {
		return err
	}
	ns, err := netns.Open(netnsPath)
	if err != nil {
		return err
	}
	defer func() { err = join(err, ns.Close()) }()
	leave, err := p.turns.enter(ctx, turn{ns: ns.ID(), ifName: ifName})
	if err != nil {
		return err
	}
	defer leave()
	link, err := wake(ctx, ns, ifName, p.timing.Carrier)
	if err != nil {
		return err
	}
	defer func() { err = join(err, link.rest()) }()
	w, err := openWire(ns, link, addr)
	if err != nil {
		return err
	}
	defer func() { err = join(err, w.close()) }()
	return w.listen(ctx, p.timing)
}

// join adds what went wrong at the end. A conflict stays one.
func join(err, end error) error {
	if end == nil {
		return err
	}
	return errors.Join(err, end)
}

func checkAddress(addr netip.Addr) error {
	if !addr.IsValid() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return errors.New("no address of a single station; give one without zone")
	}
	return nil
}
