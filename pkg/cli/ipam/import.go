package ipam

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/whereabouts"
)

const importHelp = `Takes over the addresses that Whereabouts gave away, while the pods run: each
becomes a claim (IPClaim) of its pod. It reads Whereabouts' IPPools,
OverlappingRangeIPReservations and NodeSlicePools, the network definitions, and
the pods.

Without --apply nothing is changed: the plan is printed, with what a person
should know. With --apply it is carried out; every step may be repeated, so run
it again after an error, and again until it has nothing left to do. Objects of
Whereabouts are not changed, but for --side-by-side, which marks the
reservations of claims as meta-cni's.

Before the takeover stop what gives addresses away and cleans up for
Whereabouts, or use --side-by-side while both allocate in the same ranges.`

const importExamples = `  metactl ipam import-whereabouts                       # the plan
  metactl ipam import-whereabouts --apply
  metactl ipam import-whereabouts --side-by-side --apply # while Whereabouts goes on
  metactl ipam import-whereabouts --flat /etc/cni/net.d/whereabouts.d/whereabouts.conf`

// importFlags are its flags.
type importFlags struct {
	apply, beside, skipLeaked bool
	namespace, flat           string
	wait                      time.Duration
}

func importCommand(e *env) *cobra.Command {
	var f importFlags
	command := &cobra.Command{
		Use:     "import-whereabouts",
		Short:   "Take over the addresses of Whereabouts (with --apply it changes the cluster)",
		Long:    importHelp,
		Example: importExamples,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return e.with(command.Context(), func(ctx context.Context, s source) error {
				return e.importWhereabouts(ctx, s, f)
			})
		},
	}
	flags := command.Flags()
	flags.BoolVar(&f.apply, "apply", false, "carry the plan out")
	flags.BoolVar(&f.beside, "side-by-side", false, "Whereabouts goes on allocating in the same ranges")
	flags.BoolVar(&f.skipLeaked, "skip-leaked", false, "leave addresses free whose pod is gone; else they cool down first")
	flags.StringVar(&f.namespace, "namespace", "kube-system", "`namespace` of Whereabouts' objects")
	flags.StringVar(&f.flat, "flat", "", "Whereabouts' `file` whereabouts.conf of a node, if network definitions rely on it")
	flags.DurationVar(&f.wait, "wait", 2*time.Minute, "`time` to wait for nodes to share their blocks")
	return command
}

func (e *env) importWhereabouts(ctx context.Context, s source, f importFlags) error {
	c, ok := s.(*cluster)
	if !ok {
		return errors.New("Whereabouts' objects are in a cluster: leave --dir out") //nolint:staticcheck // it is a name
	}
	client, err := c.whereabouts(f.namespace)
	if err != nil {
		return err
	}
	var store ipam.Store = c.store
	if f.beside {
		store = whereabouts.WithReservations(store, client)
	}
	in, err := c.readWhereabouts(ctx, client, f, e.now())
	if err != nil {
		return err
	}
	wanted := whereabouts.Survey(in)
	have, err := whereabouts.Observe(ctx, store, wanted)
	if err != nil {
		return err
	}
	plan := wanted.Plan(have)
	out := importView(plan, wanted, f)
	if e.output != string(asJSON) {
		fmt.Fprint(e.Out, plan.String())
	}
	if !f.apply {
		return e.printImport(out, f)
	}
	wait, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	done, err := whereabouts.Apply(wait, store, plan)
	out.Applied = err == nil
	out.Made = made{done.Blocks, done.Claims}
	out.add(done.Findings)
	if e.output != string(asJSON) {
		for _, finding := range done.Findings {
			fmt.Fprintf(e.Out, "note: %s: %s\n", finding.Kind, finding.Text)
		}
	}
	return errors.Join(e.printImport(out, f), err)
}

// readWhereabouts reads everything that a takeover looks at.
func (c *cluster) readWhereabouts(ctx context.Context, client *whereabouts.Client, f importFlags, now time.Time) (in whereabouts.Input, err error) {
	in.Beside, in.Now = f.beside, now
	if f.skipLeaked {
		in.Leaked = whereabouts.SkipLeaked
	}
	if f.flat != "" {
		if in.Flat, err = os.ReadFile(f.flat); err != nil {
			return in, fmt.Errorf("--flat: %w", err)
		}
	}
	if in.Pools, err = client.Pools(ctx); err != nil {
		return in, err
	}
	if in.Reservations, err = client.Reservations(ctx); err != nil {
		return in, err
	}
	if in.Slices, err = client.Slices(ctx); err != nil {
		return in, err
	}
	if in.Spaces, err = c.spaces(ctx); err != nil {
		return in, err
	}
	if in.Definitions, err = c.definitions(ctx); err != nil {
		return in, err
	}
	wanted := podRefs(in)
	// A pod that has finished counts: whether its sandbox is gone, its node knows.
	err = c.eachPod(ctx, func(p pod) {
		if wanted[p.ref()] {
			in.Pods = append(in.Pods, podOf(p))
		}
	})
	return in, err
}

// podRefs are the pods that Whereabouts' objects name: others don't matter.
func podRefs(in whereabouts.Input) map[string]bool {
	refs := map[string]bool{}
	for _, p := range in.Pools {
		for _, a := range p.Spec.Allocations {
			refs[a.PodRef] = true
		}
	}
	for _, r := range in.Reservations {
		refs[r.Spec.PodRef] = true
	}
	return refs
}
