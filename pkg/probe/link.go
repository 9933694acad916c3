package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

// carrierPoll is the time between two looks at a link without carrier.
const carrierPoll = 5 * time.Millisecond

// awake is an interface that can send, and what has to be undone.
type awake struct {
	ns    *netns.Handle
	name  string
	index int
	mac   net.HardwareAddr
	// raised says that it was down.
	raised bool
	// quieted says that IPv6 was on and was turned off for the time.
	quieted bool
}

// wake sets the interface up if it is down, and waits for its carrier. IPv6 is
// off in it meanwhile: it would form addresses, solicit routers and believe
// their advertisements. Frames are sent and heard below it. Should the process
// end before rest, the plugins' IPAM code turns IPv6 on for the addresses that
// it adds.
func wake(ctx context.Context, ns *netns.Handle, ifName string, patience time.Duration) (*awake, error) {
	link, err := ns.Netlink().LinkByName(ifName)
	if err != nil {
		return nil, fmt.Errorf("find it: %w", err)
	}
	attrs := link.Attrs()
	if err := checkEthernet(link); err != nil {
		return nil, err
	}
	a := &awake{ns: ns, name: attrs.Name, index: attrs.Index, mac: attrs.HardwareAddr}
	if attrs.RawFlags&unix.IFF_UP == 0 {
		if err := a.raise(link); err != nil {
			return nil, join(err, a.rest())
		}
	}
	if err := a.awaitCarrier(ctx, patience); err != nil {
		return nil, join(err, a.rest())
	}
	return a, nil
}

// checkEthernet refuses what can't carry the question or its answer. An ipvlan
// has its parent's MAC, and the answer to a probe names no address by which it
// could be told whose it is.
func checkEthernet(link netlink.Link) error {
	attrs := link.Attrs()
	switch {
	case attrs.EncapType != "ether" || len(attrs.HardwareAddr) != 6 || attrs.RawFlags&unix.IFF_LOOPBACK != 0:
		return fmt.Errorf("it is no Ethernet (%s)", attrs.EncapType)
	case attrs.RawFlags&unix.IFF_NOARP != 0:
		return fmt.Errorf("it doesn't resolve addresses (%s, NOARP)", link.Type())
	case link.Type() == "ipvlan":
		return errors.New("it is an ipvlan, which never hears the answer")
	}
	return nil
}

// raise sets a link up that is down. One that has IPv6 addresses while it is
// down would lose them.
func (a *awake) raise(link netlink.Link) error {
	addrs, err := a.ns.Netlink().AddrList(link, unix.AF_INET6)
	if err != nil {
		return fmt.Errorf("list its addresses: %w", err)
	}
	if len(addrs) > 0 {
		return fmt.Errorf("it is down and has the address %s, which it would lose: set it up", addrs[0].IPNet)
	}
	was, err := a.sysctl("0", "1")
	if err != nil {
		return fmt.Errorf("turn IPv6 off: %w", err)
	}
	a.quieted = was
	a.raised = true
	if err := a.ns.Netlink().LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

// sysctl writes disable_ipv6 if it has the value from, and says whether. A
// kernel without IPv6 has no such file.
func (a *awake) sysctl(from, to string) (changed bool, err error) {
	path := filepath.Join("/proc/sys/net/ipv6/conf", a.name, "disable_ipv6")
	err = a.ns.Do(func() error {
		value, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(value)) != from {
			return err
		}
		changed = true
		return os.WriteFile(path, []byte(to), 0o644)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return changed && err == nil, err
}

// awaitCarrier waits until the link can send. The flag follows the device at
// once, unlike the operational state, which the kernel updates lazily.
func (a *awake) awaitCarrier(ctx context.Context, patience time.Duration) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(carrierPoll)
	defer tick.Stop()
	for {
		link, err := a.ns.Netlink().LinkByIndex(a.index)
		if err != nil {
			return fmt.Errorf("look for its carrier: %w", err)
		}
		if link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return fmt.Errorf("it has no carrier after %s: is its other end up?", patience)
		case <-tick.C:
		}
	}
}

// rest makes the interface what it was. That it is gone is no error. IPv6
// comes back last: on a link that is down it does nothing.
func (a *awake) rest() error {
	if !a.raised && !a.quieted {
		return nil
	}
	link, err := a.ns.Netlink().LinkByIndex(a.index)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("put interface %s back: %w", a.name, err)
	}
	var errs []error
	if a.raised {
		errs = append(errs, a.ns.Netlink().LinkSetDown(link))
	}
	if a.quieted {
		_, err := a.sysctl("1", "0")
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("put interface %s back: %w", a.name, err)
	}
	return nil
}
