package netconf

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the golden files")
	m.Run()
}

// Each testdata/*.txtar holds conf, perhaps args (CNI_ARGS), flat (the flat
// file) and pools (a list of ipam.Pool that Plan is given), and what is
// expected: want/plan or want/error.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := golden(t, archive)
			if flag.Lookup("update").Value.String() == "true" {
				archive.Files = append(slices.DeleteFunc(archive.Files, isWanted), got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if i := slices.IndexFunc(archive.Files, isWanted); i < 0 {
				t.Errorf("nothing is wanted; got %s:\n%s", got.Name, got.Data)
			} else if diff := cmp.Diff(text(archive.Files[i]), text(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func isWanted(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") }

func text(f txtar.File) string { return f.Name + "\n" + string(f.Data) }

func golden(t *testing.T, archive *txtar.Archive) txtar.File {
	t.Helper()
	in := Input{ContainerID: "c1", IfName: "net1", Netns: "/run/netns/x"}
	var pools []ipam.Pool
	for _, f := range archive.Files {
		data := []byte(strings.TrimSuffix(string(f.Data), "\n"))
		switch f.Name {
		case "conf":
			in.Conf = data
		case "args":
			in.Args = string(data)
		case "flat":
			in.Flat = data
		case "pools":
			if err := json.Unmarshal(data, &pools); err != nil {
				t.Fatal(err)
			}
		}
	}
	shown, err := run(in, pools)
	if again, err2 := run(in, pools); again != shown || fmt.Sprint(err) != fmt.Sprint(err2) {
		t.Errorf("the same input gives another plan: %s, %v", again, err2)
	}
	if err != nil {
		if !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%v is not ipam.ErrInvalid", err)
		}
		return txtar.File{Name: "want/error", Data: []byte(err.Error() + "\n")}
	}
	return txtar.File{Name: "want/plan", Data: []byte(shown)}
}

func run(in Input, pools []ipam.Pool) (string, error) {
	c, err := Parse(in)
	if err != nil {
		return "", err
	}
	p, err := c.Plan(pools)
	if err != nil {
		return "", err
	}
	return show(c, p), nil
}

// show is a plan for people to read.
func show(c Config, p Plan) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if len(c.PoolNames) > 0 || c.Match {
		line("pools %v, match %v", c.PoolNames, c.Match)
	}
	r := p.Request
	line("%s for %s: order %s, cooldown %s, probe all %v, keep for %s", r.Owner.Key, r.Owner.Pod(), r.Order, r.Cooldown, r.ProbeAll, r.Keep)
	for _, w := range r.Wants {
		line("want %s", addrOr(w.Addr.IsValid(), w.Addr, "any"))
		for _, rg := range w.Ranges {
			line("  %s of %s: %s in %s, via %s", rg.Text, rg.Pool, rg.Usable, addrOr(rg.Subnet.IsValid(), rg.Subnet, "no subnet"), addrOr(rg.Gateway.IsValid(), rg.Gateway, "nobody"))
			line("    space %s", showSpace(rg.Space))
		}
	}
	for _, f := range p.Fixed {
		line("fixed %s via %s", f.Prefix, addrOr(f.Gateway.IsValid(), f.Gateway, "nobody"))
	}
	for _, route := range p.Routes {
		line("route %s via %v", route.Dst.String(), route.GW)
	}
	if !p.DNS.IsEmpty() {
		line("dns %+v", p.DNS)
	}
	for _, d := range p.Definitions {
		line("definition %s in space %s: order %s, cooldown %s, sticky %v, probe %v, routes %v, dns %v", d.Name, d.Space.Name, d.Order, d.Cooldown, d.Sticky, d.Probe, d.Routes, d.Nameservers)
		for _, rg := range d.Ranges {
			line("  %+v", rg.Spec)
		}
	}
	for _, note := range p.Notes {
		line("note %s", note)
	}
	return b.String()
}

func addrOr(valid bool, value fmt.Stringer, other string) string {
	if valid {
		return value.String()
	}
	return other
}

func showSpace(s ipam.Space) string {
	return fmt.Sprintf("%s, %s, blocks of /%d and /%d", s.Name, s.Mode, s.Grid.V4, s.Grid.V6)
}
