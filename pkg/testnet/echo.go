package testnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pause is the time between two tries.
const pause = 100 * time.Millisecond

// Ping sends ICMP echo requests until one is answered, or the context ends.
func (h *Host) Ping(ctx context.Context, to netip.Addr) error {
	network, any, request, reply := "ip4:icmp", "0.0.0.0", byte(8), byte(0)
	if to.Is6() {
		network, any, request, reply = "ip6:ipv6-icmp", "::", 128, 129
	}
	conn, err := h.listen(ctx, network, any)
	if err != nil {
		return fmt.Errorf("%s: ping %s: %w", h.Name, to, err)
	}
	defer func() { _ = conn.Close() }()
	id := uint16(os.Getpid())
	isReply := func(b []byte) bool { return len(b) >= 8 && b[0] == reply && binary.BigEndian.Uint16(b[4:]) == id }
	_, err = exchange(ctx, conn, &net.IPAddr{IP: to.AsSlice()}, echoMessage(request, id), isReply)
	if err != nil {
		return fmt.Errorf("%s: ping %s: %w", h.Name, to, err)
	}
	return nil
}

// echoMessage is an ICMP echo request (RFC 792, 4443). The kernel fills in the
// checksum for IPv6, where it covers the addresses too.
func echoMessage(kind byte, id uint16) []byte {
	b := make([]byte, 8)
	b[0] = kind
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], 1)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	return b
}

// Answer serves a text by UDP on an address of the host until the test ends.
func (h *Host) Answer(at netip.AddrPort, text string) {
	h.net.tb.Helper()
	conn, err := h.listen(context.Background(), "udp", at.String())
	h.must("answer on "+at.String(), err)
	h.net.tb.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteTo([]byte(text), from)
			}
		}
	}()
}

// Ask asks a server made by Answer until it answers, or the context ends.
func (h *Host) Ask(ctx context.Context, at netip.AddrPort) (string, error) {
	conn, err := h.listen(ctx, "udp", ":0")
	if err != nil {
		return "", fmt.Errorf("%s: ask %s: %w", h.Name, at, err)
	}
	defer func() { _ = conn.Close() }()
	answer, err := exchange(ctx, conn, net.UDPAddrFromAddrPort(at), []byte("?"), func([]byte) bool { return true })
	if err != nil {
		return "", fmt.Errorf("%s: ask %s: %w", h.Name, at, err)
	}
	return string(answer), nil
}

// listen makes a socket in the host, to which it stays bound.
func (h *Host) listen(ctx context.Context, network, address string) (conn net.PacketConn, err error) {
	err = h.Do(func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	return conn, err
}

// exchange sends until something comes back that is accepted.
func exchange(ctx context.Context, conn net.PacketConn, to net.Addr, request []byte, accept func([]byte) bool) ([]byte, error) {
	last := errors.New("no answer")
	buf := make([]byte, 1500)
	for ctx.Err() == nil {
		next := time.Now().Add(pause)
		if _, err := conn.WriteTo(request, to); err != nil && !errors.Is(err, unix.EINTR) {
			last = err
		}
		_ = conn.SetReadDeadline(next)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err == nil && accept(buf[:n]) {
				return buf[:n], nil
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				last = err
			}
		}
	}
	return nil, fmt.Errorf("%w (%w)", last, context.Cause(ctx))
}
