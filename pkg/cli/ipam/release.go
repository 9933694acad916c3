package ipam

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const releaseHelp = `Frees one address that has a claim (IPClaim), by deleting that very claim.

It asks the cluster for proof that nobody uses the address any more: the owner's
pod doesn't exist or has another UID, and the owner's node doesn't exist or was
booted since. An address that rests (Cooling) needs no proof unless a dead node
had it; one that is kept needs its keeper to be gone. On a host without
Kubernetes (--dir) only another boot of this host is proof.

An address in a leased block can't be released from here: only its node knows
whether it is in use.

--force releases without proof. If a sandbox still has the address, another pod
gets the same one: both lose connections at random, now or days later. The
address also goes without its cool-down, so neighbours may still send to the
old owner. Use it only when you know that the sandbox is gone.

Exit code 0: it is free; 1: it is not, with the reason.`

const releaseExamples = `  metactl ipam release 192.0.2.7
  metactl ipam release 192.0.2.7 --space blue --force`

// released is what `release -o json` prints; its form is kept stable.
type released struct {
	Address string `json:"address"`
	Space   string `json:"space,omitempty"`
	// Released is false where nobody had the address.
	Released bool       `json:"released"`
	Claim    *claimView `json:"claim,omitempty"`
	// Proof that nobody uses it; or that it was forced.
	Proof []string `json:"proof,omitempty"`
	Says  string   `json:"says"`
}

// releaseFlags are its flags.
type releaseFlags struct {
	space      string
	force, yes bool
}

func releaseCommand(e *env) *cobra.Command {
	var f releaseFlags
	command := &cobra.Command{
		Use:     "release ADDRESS",
		Short:   "Free an address whose owner is gone (changes the cluster)",
		Long:    releaseHelp,
		Example: releaseExamples,
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return e.with(command.Context(), func(ctx context.Context, s source) error {
				return e.release(ctx, s, args[0], f)
			})
		},
	}
	command.Flags().StringVar(&f.space, "space", "", "address `space`, where more than one has the address")
	command.Flags().BoolVar(&f.force, "force", false, "release without proof; you are asked for the address again")
	command.Flags().BoolVar(&f.yes, "yes", false, "with --force: don't ask")
	return command
}

func (e *env) release(ctx context.Context, s source, text string, f releaseFlags) error {
	addr, err := parseAddr(text)
	if err != nil {
		return err
	}
	st, err := only(ctx, s, addr, f.space)
	if err != nil {
		return err
	}
	out := released{Address: st.Address, Space: st.Space, Claim: st.Claim}
	switch {
	case st.claim != nil:
	case st.State == stateLeased:
		return leasedRefusal(st)
	default:
		out.Says = "nobody has it: " + st.Says
		return e.printReleased(out)
	}
	proof, refusal := e.prove(ctx, s, *st.claim)
	if refusal != nil && !f.force {
		return fmt.Errorf("claim %s is not released: %w. If you know that its sandbox is gone, add --force (see --help for what that may break)", st.claim.Ref, refusal)
	}
	if refusal != nil {
		if err := e.askAgain(addr, f.yes, refusal); err != nil {
			return err
		}
		proof = []string{"forced although " + refusal.Error()}
	}
	err = s.deleteClaim(ctx, st.claim.Ref, st.claim.Version)
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		out.Says = "somebody else released it just now"
		return e.printReleased(out)
	case errors.Is(err, ipam.ErrStale):
		return fmt.Errorf("claim %s changed while it was looked at, so it is not released: look at it again with metactl ipam show %s", st.claim.Ref, addr)
	case err != nil:
		return err
	}
	out.Released, out.Proof = true, proof
	out.Says = fmt.Sprintf("claim %s (%s, %s, UID %s) is deleted; the address is free", st.claim.Ref, st.claim.State, claimOwner(*st.claim), st.claim.Version.UID)
	if st.beside {
		out.Says += "; meta-cni-controller deletes its reservation of Whereabouts' kind within minutes"
	}
	return e.printReleased(out)
}

// only is what is known of the address in the one space that is meant.
func only(ctx context.Context, s source, addr netip.Addr, space string) (standing, error) {
	found, err := find(ctx, s, addr, space)
	if err != nil {
		return standing{}, err
	}
	var held []standing
	var names []string
	for _, st := range found {
		if st.claim != nil || st.State == stateLeased {
			held, names = append(held, st), append(names, st.Space)
		}
	}
	if len(held) > 1 {
		return standing{}, fmt.Errorf("%s has an owner in each of the spaces %s: say which with --space", addr, strings.Join(names, ", "))
	}
	return append(held, found...)[0], nil
}

// leasedRefusal tells how an address of a leased block gets free.
func leasedRefusal(st standing) error {
	b := st.block
	if b.Owner.Name == "" {
		return fmt.Errorf("%s is in block %s, which was taken from a dead node: there is nothing to release; the next node that leases it asks for the address on the wire first", st.Address, b.Ref)
	}
	who := "no pod of it is known"
	do := "see metactl ipam show " + st.Address
	if st.Owner != nil {
		who = fmt.Sprintf("pod %s had it at %s", st.Owner.Pod(), clock(st.Told))
		do = fmt.Sprintf("delete that pod; if it is gone, the agent of node %s releases the address by itself at its second look", b.Owner.Name)
	}
	return fmt.Errorf("%s is in block %s, leased by node %s: only that node can release it (%s); %s, or restart meta-cnid there if it hangs", st.Address, b.Ref, b.Owner.Name, who, do)
}

// askAgain has the operator write the address once more.
func (e *env) askAgain(addr netip.Addr, yes bool, refusal error) error {
	if yes {
		return nil
	}
	fmt.Fprintf(e.Err, "There is no proof that %s is unused: %v.\nIf a sandbox has it, another pod will get the same address. Write the address again to release it:\n", addr, refusal)
	line, err := bufio.NewReader(e.In).ReadString('\n')
	if again, parseErr := parseAddr(strings.TrimSpace(line)); parseErr == nil && again == addr {
		return nil
	}
	return errors.Join(fmt.Errorf("%s was not written again: nothing is released (--yes doesn't ask)", addr), unlessEOF(err))
}

func (e *env) printReleased(r released) error {
	if e.output == string(asJSON) {
		return printJSON(e.Out, r)
	}
	fmt.Fprintf(e.Out, "%s: %s\n", r.Address, r.Says)
	for _, p := range r.Proof {
		fmt.Fprintln(e.Out, "  because", p)
	}
	return nil
}
