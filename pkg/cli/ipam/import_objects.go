package ipam

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/whereabouts"
)

const definitionsPath = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"

func (c *cluster) whereabouts(namespace string) (*whereabouts.Client, error) {
	return whereabouts.NewClient(c.config, c.http, namespace)
}

type definitionItem struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Config string `json:"config"`
	} `json:"spec"`
}

// definitions are the network definitions that speak of Whereabouts; none if
// the cluster doesn't know the kind.
func (c *cluster) definitions(ctx context.Context) ([]whereabouts.Definition, error) {
	var all []whereabouts.Definition
	err := whole(ctx, c, definitionsPath, func(in *definitionItem) {
		if strings.Contains(in.Spec.Config, "whereabouts") {
			all = append(all, whereabouts.Definition{Namespace: in.Metadata.Namespace, Name: in.Metadata.Name, Config: []byte(in.Spec.Config)})
		}
	})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return all, err
}

// podOf is a pod for a takeover, one Interface for each interface.
func podOf(p pod) whereabouts.Pod {
	out := whereabouts.Pod{Namespace: p.namespace, Name: p.name, UID: p.uid, Node: p.node}
	for _, a := range p.addresses {
		i := slices.IndexFunc(out.Interfaces, func(i whereabouts.Interface) bool { return i.IfName == a.ifName && a.ifName != "" })
		if i < 0 {
			i = len(out.Interfaces)
			out.Interfaces = append(out.Interfaces, whereabouts.Interface{IfName: a.ifName, Definition: definitionOf(a.network)})
		}
		out.Interfaces[i].Addrs = append(out.Interfaces[i].Addrs, a.addr)
	}
	return out
}

// definitionOf is the network definition of a network-status: the cluster
// network has a name without a namespace.
func definitionOf(network string) string {
	if strings.Contains(network, "/") {
		return network
	}
	return ""
}

// imported is what `import-whereabouts -o json` prints; its form is kept
// stable. Claims are those that are left to be made.
type imported struct {
	Applied  bool            `json:"applied"`
	Made     made            `json:"made"`
	Spaces   []string        `json:"spaces"`
	Blocks   []importedBlock `json:"blocks"`
	Claims   []*claimView    `json:"claims"`
	Findings []importFinding `json:"findings"`
	// Wanted is how many claims there are to be in the end.
	Wanted int `json:"wanted"`
	// Next are the steps for a person.
	Next []string `json:"next"`
}

type made struct {
	Blocks int `json:"blocks"`
	Claims int `json:"claims"`
}

type importedBlock struct {
	Name   string `json:"name"`
	Create bool   `json:"create,omitempty"`
	// Lessee is the node that is asked to share it.
	Lessee string `json:"lessee,omitempty"`
}

type importFinding struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func importView(p whereabouts.Plan, w whereabouts.Wanted, f importFlags) imported {
	out := imported{Spaces: []string{}, Blocks: []importedBlock{}, Claims: []*claimView{}, Findings: []importFinding{}, Wanted: len(w.Claims)}
	for _, sp := range p.Spaces {
		out.Spaces = append(out.Spaces, sp.Space.Name)
		for _, b := range sp.Blocks {
			if b.Create || b.Lessee != (ipam.Node{}) {
				out.Blocks = append(out.Blocks, importedBlock{b.Ref.String(), b.Create, b.Lessee.Name})
			}
			for _, c := range b.Claims {
				out.Claims = append(out.Claims, viewOf(c))
			}
		}
	}
	out.add(p.Findings)
	out.Next = nextSteps(w, f, f.apply || len(out.Claims)+len(out.Blocks) == 0)
	return out
}

func (i *imported) add(findings []whereabouts.Finding) {
	for _, f := range findings {
		i.Findings = append(i.Findings, importFinding{string(f.Kind), f.Text})
	}
}

// answerAsWhereabouts is how pods' network definitions reach meta-cni as they
// are.
const answerAsWhereabouts = "let meta-cni answer to Whereabouts' name: add --whereabouts to the args of the container install in the DaemonSet (kubectl -n meta-cni edit daemonset meta-cnid)"

// nextSteps are what a person does after this run.
func nextSteps(w whereabouts.Wanted, f importFlags, done bool) []string {
	cleaners := "stop what cleans up for Whereabouts: its reconciler (CronJob or Deployment) and the control loop of its DaemonSet, so that no entry goes while its pod runs"
	switch {
	case len(w.Claims) == 0:
		return []string{fmt.Sprintf("Whereabouts has no address in namespace %s: is that the right one (--namespace)? kubectl get ippools.whereabouts.cni.cncf.io -A", f.namespace)}
	case !done && f.beside:
		return []string{
			cleaners,
			"kubectl apply -f deployments/whereabouts.yaml, with its namespace set to " + f.namespace,
			"run this again with --apply",
		}
	case !done:
		return []string{
			cleaners,
			"let no pod start that uses these networks until meta-cni answers for them; if that can't be, use --side-by-side",
			"run this again with --apply",
		}
	case f.beside:
		return []string{
			"run this again until it makes nothing",
			answerAsWhereabouts + "; its roll-out moves one node after the other",
			"run this once more when the roll-out is done; then no pod asks Whereabouts any more",
			"set whereabouts: false (kubectl edit addressspaces " + spaceNames(w) + ") and restart meta-cni-controller; six minutes later, when every meta-cnid has seen it, remove Whereabouts and its CustomResourceDefinitions: before, an ADD needs its reservations",
		}
	}
	return []string{
		"run this again until it makes nothing",
		answerAsWhereabouts,
		"look with metactl ipam check; then remove Whereabouts and its CustomResourceDefinitions",
	}
}

func spaceNames(w whereabouts.Wanted) string {
	var names []string
	for _, as := range w.Spaces {
		names = append(names, as.Name)
	}
	return strings.Join(names, " ")
}

func (e *env) printImport(i imported, f importFlags) error {
	if e.output == string(asJSON) {
		return printJSON(e.Out, i)
	}
	fmt.Fprintln(e.Out)
	switch {
	case !f.apply && len(i.Claims)+len(i.Blocks) == 0:
		fmt.Fprintf(e.Out, "nothing is left to be made: %d claims are there\n", i.Wanted)
	case !f.apply:
		fmt.Fprintf(e.Out, "%d of %d claims are to be made; nothing was changed (no --apply)\n", len(i.Claims), i.Wanted)
	default:
		fmt.Fprintf(e.Out, "made %d blocks and %d claims; %d claims were there before\n", i.Made.Blocks, i.Made.Claims, i.Wanted-len(i.Claims))
	}
	fmt.Fprintln(e.Out, "next:")
	for n, step := range i.Next {
		fmt.Fprintf(e.Out, "  %d. %s\n", n+1, step)
	}
	return nil
}
