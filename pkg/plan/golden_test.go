package plan

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/meta-cni/meta-cni/pkg/annotation"
	"github.com/meta-cni/meta-cni/pkg/attach"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the golden files")
	m.Run()
}

// Each testdata/*.txtar holds the primary's configuration, perhaps the pod's
// networks annotation (or selections.json, for what package annotation refuses
// already), network definitions as nad/<namespace>/<name> and
// pod.json with what the runtime says; and what is expected: want/plan or
// want/error.
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
	in := input(t, archive)
	p, err := Make(in)
	if again, err2 := Make(in); cmp.Diff(p, again, addresses()) != "" || fmt.Sprint(err) != fmt.Sprint(err2) {
		t.Errorf("the same input gives another plan: %v, %v", err, err2)
	}
	if err != nil {
		return txtar.File{Name: "want/error", Data: []byte(err.Error() + "\n")}
	}
	return txtar.File{Name: "want/plan", Data: []byte(show(in, p))}
}

// input reads a case. The last line feed of a file isn't part of it.
func input(t *testing.T, archive *txtar.Archive) Input {
	t.Helper()
	in := Input{Key: attach.Key{ContainerID: "c1", IfName: "eth0"}, Netns: "/run/netns/x", Networks: map[attach.NetworkRef]attach.Network{}}
	for _, f := range archive.Files {
		data := []byte(strings.TrimSuffix(string(f.Data), "\n"))
		switch name, _ := strings.CutPrefix(f.Name, "nad/"); {
		case f.Name == "primary":
			in.Primary = attach.Primary{File: "10-primary.conf", Config: data}
		case f.Name == "networks":
			var err error
			if in.Selections, err = annotation.Parse(string(data), "ns", annotation.Limits{}); err != nil {
				t.Fatal(err)
			}
		case f.Name == "selections.json":
			var elements []nadv1.NetworkSelectionElement
			if err := json.Unmarshal(data, &elements); err != nil {
				t.Fatal(err)
			}
			for _, e := range elements {
				in.Selections = append(in.Selections, attach.Selection{Element: e})
			}
		case f.Name == "pod.json":
			pod := struct {
				ContainerID, IfName *string
				Args                *[][2]string
				RuntimeConfig       *map[string]json.RawMessage
			}{&in.Key.ContainerID, &in.Key.IfName, &in.Args, &in.RuntimeConfig}
			if err := json.Unmarshal(data, &pod); err != nil {
				t.Fatal(err)
			}
		case name != f.Name:
			namespace, name, _ := strings.Cut(name, "/")
			ref := attach.NetworkRef{Namespace: namespace, Name: name}
			in.Networks[ref] = attach.Network{Ref: ref, Config: data, Source: "NetworkAttachmentDefinition " + ref.String()}
		}
	}
	return in
}

// show prints a plan for people; a configuration that is as written isn't
// repeated.
func show(in Input, p *attach.Plan) string {
	var b strings.Builder
	for i, d := range p.Delegates {
		fmt.Fprintf(&b, "%d %s on %s", i, d.Network, d.IfName)
		if d.Primary {
			b.WriteString(", primary")
		}
		b.WriteString("\n")
		for _, pair := range d.Args {
			fmt.Fprintf(&b, "  arg %s=%s\n", pair[0], pair[1])
		}
		names := make([]string, 0, len(d.Capabilities))
		for name := range d.Capabilities {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(&b, "  capability %s %s\n", name, d.Capabilities[name])
		}
		fmt.Fprintf(&b, "  conf %s\n", conf(in, d))
	}
	for _, r := range p.DefaultRoutes {
		fmt.Fprintf(&b, "default route via %s of %d\n", r.Gateway, r.Delegate)
	}
	return b.String()
}

func conf(in Input, d attach.Delegate) string {
	written := in.Primary.Config
	if d.Selection != nil {
		written = in.Networks[d.Selection.Ref()].Config
	}
	if string(written) == string(d.Conf) {
		return "as written"
	}
	return string(d.Conf)
}
