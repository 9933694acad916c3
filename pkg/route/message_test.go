package route

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Whatever bytes a journal holds: they are refused, or the same again after
// having been taken apart.
func FuzzMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add(ourMessage(move4(), 3, 0).serialize())
	f.Add(ourMessage(move6(), 3, 1023).serialize())
	multipath := ourMessage(move4(), 3, 7)
	multipath.attrs = append(multipath.attrs, attr{unix.RTA_MULTIPATH, []byte{16, 0, 1, 2, 3, 0, 0, 0, 8, 0, 5, 0, 10, 1, 0, 1, 8, 0, 0, 0, 4, 0, 0, 0}})
	f.Add(multipath.serialize())
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseMessage(raw)
		if err != nil {
			if (Former{Routes: []Default{{Message: raw}}}).validate() == nil {
				t.Error("validate takes what can't be parsed")
			}
			return
		}
		once := newDefault(m, nil)
		twice := newDefault(once.parsed(), nil)
		if !bytes.Equal(once.Message, twice.Message) {
			t.Errorf("canonical form of %x is %x, and of that %x", raw, once.Message, twice.Message)
		}
		if len(m.hops()) > 0 && !once.isIn([]Default{once}) {
			t.Error("a route is not in a list of itself")
		}
	})
}

func TestValidateRefuses(t *testing.T) {
	good := ourMessage(move4(), 3, 0)
	tests := map[string]func(m *message){
		"another table":  func(m *message) { m.header.Table = unix.RT_TABLE_LOCAL },
		"to somewhere":   func(m *message) { m.header.Dst_len = 8 },
		"unknown family": func(m *message) { m.header.Family = unix.AF_MPLS },
	}
	if err := (Former{Routes: []Default{{Message: good.serialize()}}}).validate(); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, change := range tests {
		bad := ourMessage(move4(), 3, 0)
		change(&bad)
		former := Former{Routes: []Default{{Message: bad.serialize()}}}
		if former.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
		if Undo(t.Context(), nil, nil, former) == nil {
			t.Errorf("%s: Undo accepts it", name)
		}
	}
}

// While routes come and go, dumps are interrupted: what Read returns must
// still be whole.
func TestReadWhileRoutesChange(t *testing.T) {
	p := newPod(t)
	const lasting = 50
	for i := range lasting {
		p.add(netlink.Route{Gw: addr("2001:db8:1::1"), Dst: prefix("::/0"), Priority: 10 + i})
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				flap := &netlink.Route{Gw: addr("2001:db8:1::1"), Dst: prefix(fmt.Sprintf("2001:db8:%x::/48", 0x1000+i%0x1000))}
				_ = p.Netlink().RouteAdd(flap)
				_ = p.Netlink().RouteDel(flap)
			}
		}
	}()
	for range 200 {
		former, err := Read(t.Context(), p.Handle, []Move{move6()})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			t.Errorf("Read: %v", err)
		}
		if err == nil && len(former.Routes) != lasting {
			t.Errorf("Read found %d default routes, want %d", len(former.Routes), lasting)
		}
	}
	close(stop)
	<-stopped
}
