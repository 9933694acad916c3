package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// invariants are those of the package's doc.
func invariants(p Plan) error {
	fixed := map[netip.Addr]bool{}
	for _, f := range p.Fixed {
		fixed[f.Prefix.Addr()] = true
	}
	for i, w := range p.Request.Wants {
		if len(w.Ranges) == 0 {
			return fmt.Errorf("want %d has no range", i)
		}
		for _, r := range w.Ranges {
			if err := rangeInvariants(w, r); err != nil {
				return fmt.Errorf("want %d, range %s: %w", i, r.Text, err)
			}
			for addr := range fixed {
				if r.Usable.Contains(addr) {
					return fmt.Errorf("want %d, range %s: %s is in the result anyway", i, r.Text, addr)
				}
			}
		}
	}
	for _, d := range p.Definitions {
		for _, r := range d.Ranges {
			if _, err := r.Spec.Resolve(); err != nil {
				return fmt.Errorf("definition %s: %w", d.Name, err)
			}
		}
	}
	return nil
}

func rangeInvariants(w ipam.Want, r ipam.Range) error {
	if r.Usable.IsEmpty() {
		return errors.New("nothing is usable")
	}
	if w.Addr.IsValid() && !r.Usable.Contains(w.Addr) {
		return fmt.Errorf("it can't give %s", w.Addr)
	}
	bits := w.Ranges[0].Usable.Ranges()[0].First().BitLen()
	for _, part := range r.Usable.Ranges() {
		if part.First().BitLen() != bits {
			return fmt.Errorf("%s is of another family", part)
		}
	}
	if r.Subnet.IsValid() {
		if r.Subnet != r.Subnet.Masked() || !r.Usable.Subtract(iprange.SetOf(iprange.OfPrefix(r.Subnet))).IsEmpty() {
			return fmt.Errorf("%s has addresses outside of %s", r.Usable, r.Subnet)
		}
	}
	if r.Gateway.IsValid() && r.Gateway.BitLen() != bits {
		return fmt.Errorf("gateway %s is of another family", r.Gateway)
	}
	if err := ipam.CheckSpaceName(r.Space.Name); err != nil {
		return err
	}
	return r.Space.Grid.Check()
}

func genRange(t *rapid.T) map[string]any {
	v6 := rapid.Bool().Draw(t, "v6")
	host := rapid.IntRange(2, 6).Draw(t, "host bits")
	base, bits := netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 2).Draw(t, "subnet")), rapid.Uint8().Draw(t, "host")}), 32-host
	if v6 {
		var b [16]byte
		copy(b[:], []byte{0x20, 1, 0xd, 0xb8})
		b[15] = rapid.Byte().Draw(t, "host")
		base, bits = netip.AddrFrom16(b), 128-host
	}
	prefix := netip.PrefixFrom(base, bits)
	all := iprange.OfPrefix(prefix.Masked())
	within := func(label string) string {
		addr, _ := all.Nth(iprange.From64(uint64(rapid.IntRange(0, 1<<host-1).Draw(t, label))))
		return addr.String()
	}
	r := map[string]any{"range": prefix.String()}
	if rapid.Bool().Draw(t, "has start") {
		r["range_start"] = within("start")
	}
	if rapid.Bool().Draw(t, "has end") {
		r["range_end"] = within("end")
	}
	if rapid.Bool().Draw(t, "has exclude") {
		r["exclude"] = []string{within("exclude")}
	}
	if rapid.Bool().Draw(t, "l3") {
		r["enable_l3"] = true
	}
	return r
}

// Configurations of all sorts either are refused with ipam.ErrInvalid, or have
// plans that hold the invariants; a plan of a call that asks for addresses has
// every one of them, once.
func TestPlans(t *testing.T) {
	planned := 0
	rapid.Check(t, func(t *rapid.T) {
		section := map[string]any{"type": rapid.SampledFrom([]string{Meta, Whereabouts}).Draw(t, "type")}
		var ranges []map[string]any
		for range rapid.IntRange(1, 3).Draw(t, "ranges") {
			ranges = append(ranges, genRange(t))
		}
		section["ipRanges"] = ranges
		addr := func(label string) string {
			return fmt.Sprintf("10.0.%d.%d", rapid.IntRange(0, 2).Draw(t, label), rapid.Uint8().Draw(t, label))
		}
		if rapid.Bool().Draw(t, "has gateway") {
			section["gateway"] = addr("gateway")
		}
		if rapid.Bool().Draw(t, "first available") {
			section["ipRangesAllocation"] = "first_available"
		}
		if rapid.Bool().Draw(t, "overlap off") {
			section["enable_overlapping_ranges"] = false
		}
		if rapid.Bool().Draw(t, "has addresses") {
			section["addresses"] = []any{map[string]string{"address": addr("fixed") + "/24"}}
		}
		if rapid.Bool().Draw(t, "has slices") {
			section["node_slice_size"] = fmt.Sprint(rapid.IntRange(1, 128).Draw(t, "slice"))
		}
		asked := map[string]bool{}
		for range rapid.IntRange(0, 2).Draw(t, "asked") {
			asked[addr("asked")] = true
		}
		conf := map[string]any{"cniVersion": "1.0.0", "name": rapid.String().Draw(t, "name"), "ipam": section}
		var ips []string
		for a := range asked {
			ips = append(ips, a)
		}
		conf["runtimeConfig"] = map[string]any{"ips": ips}
		data, err := json.Marshal(conf)
		if err != nil {
			t.Fatal(err)
		}
		p, err := planOf(data, "", nil)
		if err != nil {
			if !errors.Is(err, ipam.ErrInvalid) {
				t.Fatalf("%s: %v isn't ErrInvalid", data, err)
			}
			return
		}
		planned++
		if err := invariants(p); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		for _, w := range p.Request.Wants {
			if w.Addr.IsValid() && !asked[w.Addr.String()] {
				t.Fatalf("%s: %s wasn't asked for, or is given twice", data, w.Addr)
			}
			delete(asked, w.Addr.String())
		}
		if len(asked) > 0 {
			t.Fatalf("%s: %v forgotten", data, asked)
		}
	})
	if planned == 0 {
		t.Error("every configuration was refused")
	}
}

func planOf(conf []byte, args string, flat []byte) (Plan, error) {
	c, err := Parse(Input{Conf: conf, Args: args, Flat: flat, ContainerID: "c1", IfName: "net1"})
	if err != nil {
		return Plan{}, err
	}
	return c.Plan(nil)
}

func FuzzPlan(f *testing.F) {
	for _, seed := range []struct{ section, args, flat string }{
		{`{"type":"whereabouts","range":"10.0.0.0/24","exclude":["10.0.0.7"],"gateway":"10.0.0.1"}`, "IP=10.0.0.9/24;GATEWAY=10.0.0.2", `{"network_name":"red"}`},
		{`{"type":"meta-ipam","ipRanges":[{"range":"10.0.0.1-10.0.0.9"},{"range":"2001:db8::/64"}],"enable_overlapping_ranges":false}`, "", ""},
		{`{"type":"whereabouts","addresses":[{"address":"10.0.0.2/24"}],"routes":[{"dst":"0.0.0.0/0"}]}`, "IP=10.9.9.9/8", `{"dns":{"domain":"x"}}`},
		{`{"type":"whereabouts","range":"0.0.0.0/0","node_slice_size":"/24","pick_addresses":["0.0.0.9"]}`, "", `{"range":"10.0.0.0/24"}`},
		{`{"type":"meta-ipam","pool":"a","order":"fifo","cooldown":"5s","grid":{"v4":27}}`, "", ""},
	} {
		f.Add(seed.section, seed.args, seed.flat)
	}
	f.Fuzz(func(t *testing.T, section, args, flat string) {
		conf := []byte(`{"cniVersion":"1.0.0","name":"n","ipam":` + section + `}`)
		p, err := planOf(conf, args, []byte(flat))
		if err != nil {
			if !errors.Is(err, ipam.ErrInvalid) {
				t.Errorf("%v isn't ErrInvalid", err)
			}
			return
		}
		if err := invariants(p); err != nil {
			t.Error(err)
		}
		p.Result(nil)
	})
}

func FuzzReadHead(f *testing.F) {
	f.Add(`{"name":"n","cniVersion":"1.0.0","ipam":{"type":"meta-ipam"}}`)
	f.Add(`{"name":"n","ipam":5}`)
	f.Fuzz(func(t *testing.T, conf string) {
		head, err := ReadHead([]byte(conf))
		if err == nil && (head.Network == "" || head.CNIVersion == "" || head.Type == "") {
			t.Errorf("%+v without an error", head)
		}
	})
}

// BenchmarkPlan is what one ADD pays for reading its configuration.
func BenchmarkPlan(b *testing.B) {
	conf := []byte(`{"cniVersion":"1.0.0","name":"n","ipam":{"type":"whereabouts","ipRanges":[{"range":"10.0.0.0/16","exclude":["10.0.0.7"]},{"range":"2001:db8::/64"}],"gateway":"10.0.0.1","log_level":"debug"}}`)
	for b.Loop() {
		if _, err := planOf(conf, "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0", nil); err != nil {
			b.Fatal(err)
		}
	}
}
