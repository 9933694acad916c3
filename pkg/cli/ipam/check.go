package ipam

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meta-cni/meta-cni/pkg/cli"
	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const checkHelp = `Compares what the IPAM's objects say with the nodes and pods of the cluster, and
tells what doesn't fit: why it is believed, and what to do. It changes nothing.

DUPLICATE   two live pods have one address
WRONG       it is so; somebody should do something, or the controller soon will
SUSPICIOUS  it looks wrong and may be right: a pod is being made or deleted, say;
            a claim is looked at twice before it is told
NOTE        nothing is wrong, but good to know

Exit code 0: nothing found; 1: findings; 2: something could not be looked at.
Without a cluster (--dir) there are no pods and nodes to compare with.

Kinds of findings, for --ignore:
`

const checkExamples = `  metactl ipam check
  metactl ipam check --ignore overlap,suspect
  metactl ipam check -o json | jq '.findings[] | select(.level == "DUPLICATE")'`

// checked is what `check -o json` prints; its form is kept stable.
type checked struct {
	Findings []finding `json:"findings"`
	Looked   looked    `json:"looked"`
}

// looked counts what was looked at.
type looked struct {
	Spaces int `json:"spaces"`
	Pools  int `json:"pools"`
	Blocks int `json:"blocks"`
	Claims int `json:"claims"`
	Nodes  int `json:"nodes"`
	Pods   int `json:"pods"`
}

func checkCommand(e *env) *cobra.Command {
	var ignore []string
	help := checkHelp
	for _, k := range kinds() {
		help += fmt.Sprintf("  %-13s %s\n", k[0], k[1])
	}
	command := &cobra.Command{
		Use:     "check",
		Short:   "Compare the addresses with the cluster and tell what is wrong",
		Long:    strings.TrimSuffix(help, "\n"),
		Example: checkExamples,
		Args: func(command *cobra.Command, args []string) error {
			return couldNotLook(cobra.NoArgs(command, args))
		},
		RunE: func(command *cobra.Command, _ []string) error {
			err := checkKinds(ignore)
			if err == nil {
				found := 0
				err = e.with(command.Context(), func(ctx context.Context, s source) error {
					var err error
					found, err = e.check(ctx, s, ignore)
					return err
				})
				if err == nil && found > 0 {
					return cli.Exit{Code: 1}
				}
			}
			return couldNotLook(err)
		},
	}
	command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return couldNotLook(err) })
	command.Flags().StringSliceVar(&ignore, "ignore", nil, "`kinds` of findings that don't count, with commas between")
	return command
}

// couldNotLook ends the program with code 2.
func couldNotLook(err error) error {
	if err == nil {
		return nil
	}
	return cli.Exit{Code: 2, Err: err}
}

func checkKinds(ignore []string) error {
	for _, name := range ignore {
		if !slices.ContainsFunc(kinds(), func(k [2]string) bool { return k[0] == name }) {
			return fmt.Errorf("--ignore %s: there is no such kind of finding; metactl ipam check --help has them", name)
		}
	}
	return nil
}

// check looks, prints, and says how much was found. What could be looked at is
// printed also when the rest could not.
func (e *env) check(ctx context.Context, s source, ignore []string) (int, error) {
	c := &checker{source: s, now: e.now(), ignore: ignore}
	if s.world() == nil {
		var err error
		if c.host, err = e.host(); err == nil {
			c.hostBoot, err = e.boot()
		}
		if err != nil {
			return 0, err
		}
	}
	err := c.look(ctx)
	out := checked{Findings: c.findings, Looked: c.looked}
	if out.Findings == nil {
		out.Findings = []finding{}
	}
	if e.output == string(asJSON) {
		if printErr := printJSON(e.Out, out); printErr != nil {
			return 0, printErr
		}
		return len(c.findings), err
	}
	for _, f := range c.findings {
		f.print(e.Out)
	}
	l := c.looked
	fmt.Fprintf(e.Out, "%d findings; looked at %d spaces, %d pools, %d blocks, %d claims, %d nodes, %d pods\n",
		len(c.findings), l.Spaces, l.Pools, l.Blocks, l.Claims, l.Nodes, l.Pods)
	return len(c.findings), err
}

// claimOwner names whom a claim is held for, or was held last.
func claimOwner(c ipam.Claim) string {
	text := fmt.Sprintf("pod %s, %s of network %s, container %s", c.Owner.Pod(), c.Owner.IfName, c.Owner.Network, c.Owner.ContainerID)
	if c.Node.Name != "" {
		text += ", on node " + c.Node.Name
	}
	return text
}
