package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

// wire is a packet socket on the interface that sends probes for one address
// and hears what is said about it.
type wire struct {
	file *os.File
	link *awake
	addr netip.Addr
	// probe is sent to the station to, without its Ethernet header.
	probe  []byte
	to     unix.SockaddrLinklayer
	hear   func([]byte) (heard, bool)
	buffer [2048]byte
}

// openWire opens the socket in the namespace, to which it stays bound.
func openWire(ns *netns.Handle, link *awake, addr netip.Addr) (*wire, error) {
	w := &wire{link: link, addr: addr, probe: arpProbe(link.mac, addr), hear: hearARP}
	protocol, to := uint16(unix.ETH_P_ARP), net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if addr.Is6() {
		w.probe, w.hear = solicit(addr), hearND
		protocol, to = unix.ETH_P_IPV6, groupMAC(solicitedNode(addr))
	}
	w.to = unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: link.index, Halen: 6}
	copy(w.to.Addr[:], to)
	err := ns.Do(func() error {
		// Protocol 0 hears nothing before bind names interface and protocol.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		w.file = os.NewFile(uintptr(fd), "packet socket")
		return w.prepare(fd)
	})
	if err != nil {
		err = fmt.Errorf("packet socket: %w", err)
		if w.file != nil {
			err = join(err, w.close())
		}
		return nil, err
	}
	return w, nil
}

func (w *wire) prepare(fd int) error {
	// A link that came up this instant may have no queue yet that takes frames.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return fmt.Errorf("bypass the queue: %w", err)
	}
	if w.addr.Is6() {
		if err := w.prepare6(fd); err != nil {
			return err
		}
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: w.to.Protocol, Ifindex: w.link.index})
}

// prepare6 joins the groups by which others answer and ask, in which the
// kernel isn't while IPv6 is off, and keeps other traffic out of the socket.
func (w *wire) prepare6(fd int) error {
	for _, group := range []netip.Addr{allNodes(), solicitedNode(w.addr)} {
		member := unix.PacketMreq{Ifindex: int32(w.link.index), Type: unix.PACKET_MR_MULTICAST, Alen: 6}
		copy(member.Address[:], groupMAC(group))
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member); err != nil {
			return fmt.Errorf("join the group %s: %w", group, err)
		}
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 6}, // next header
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ip6Len}, // ICMPv6 type
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: solicitation, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: advertisement, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: uint32(len(w.buffer))},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	return nil
}

func (w *wire) close() error { return w.file.Close() }

// listen sends the probes and waits; nil when nobody was heard.
func (w *wire) listen(ctx context.Context, timing Timing) error {
	// A deadline in the past wakes a waiting read.
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	probes := max(timing.Probes, 1)
	for n := 0; ; n++ {
		if err := w.hearUntil(ctx, time.Now().Add(timing.pause(n))); err != nil {
			return err
		}
		if n == probes {
			return nil
		}
		if err := w.send(); err != nil {
			return fmt.Errorf("send a probe: %w", err)
		}
	}
}

// hearUntil reads frames until the deadline; a conflict or a failure ends it
// early.
func (w *wire) hearUntil(ctx context.Context, deadline time.Time) error {
	if err := w.file.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	for {
		// Asked after the deadline was set, which may have hidden that of ctx.
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, from, err := w.receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for an answer: %w", err)
		}
		if c := w.conflict(w.buffer[:n], from); c != nil {
			return c
		}
	}
}

// conflict is what a frame says against taking the address, or nil. Frames for
// other stations (also those of another VLAN) and our own, which a switch may
// send back, say nothing.
func (w *wire) conflict(b []byte, from *unix.SockaddrLinklayer) *Conflict {
	if from.Pkttype == unix.PACKET_OTHERHOST || from.Pkttype == unix.PACKET_OUTGOING || from.Halen != 6 {
		return nil
	}
	source := net.HardwareAddr(bytes.Clone(from.Addr[:6]))
	h, ok := w.hear(b)
	if h.mac == nil {
		h.mac = source
	}
	if !ok || h.addr != w.addr || bytes.Equal(h.mac, w.link.mac) || bytes.Equal(source, w.link.mac) {
		return nil
	}
	return &Conflict{Addr: w.addr, MAC: h.mac, IfName: w.link.name, Asks: h.asks}
}

func (w *wire) receive() (n int, from *unix.SockaddrLinklayer, err error) {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	var failure error
	err = raw.Read(func(fd uintptr) (done bool) {
		var source unix.Sockaddr
		for {
			n, source, failure = unix.Recvfrom(int(fd), w.buffer[:], 0)
			if !errors.Is(failure, unix.EINTR) {
				from, _ = source.(*unix.SockaddrLinklayer)
				return !errors.Is(failure, unix.EAGAIN)
			}
		}
	})
	if err = errors.Join(err, failure); err == nil && from == nil {
		err = errors.New("a frame without a source")
	}
	return n, from, err
}

func (w *wire) send() error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) (done bool) {
		for {
			failure = unix.Sendto(int(fd), w.probe, 0, &w.to)
			if !errors.Is(failure, unix.EINTR) {
				return !errors.Is(failure, unix.EAGAIN)
			}
		}
	})
	return errors.Join(err, failure)
}

// networkOrder is a protocol as the kernel wants it in a sockaddr_ll.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
