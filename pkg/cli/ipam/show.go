package ipam

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const showHelp = `Without an address: the pools (how many addresses are used, cooling, kept and
free), the address spaces, and the blocks with the node that leases each.

With an address: who has it and since when, in each address space that knows
it. In a leased block only the node itself knows; what is shown then is what it
told last, and when that was.

A pool's "used" counts what sandboxes hold. In a leased block it is what its
node told last, so addresses that cool down there count as free. It changes
nothing.`

const showExamples = `  metactl ipam show
  metactl ipam show --space blue --node n1
  metactl ipam show 192.0.2.7
  metactl ipam show 2001:db8::7 --space blue -o json
  metactl ipam show --dir /var/lib/meta-cni/addresses`

// filter says what is to be shown; what is empty filters nothing.
type filter struct{ pool, space, node string }

func showCommand(e *env) *cobra.Command {
	var f filter
	command := &cobra.Command{
		Use:     "show [ADDRESS]",
		Short:   "Pools, spaces and blocks; or who has an address",
		Long:    showHelp,
		Example: showExamples,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return e.with(command.Context(), func(ctx context.Context, s source) error {
				if len(args) == 0 {
					return e.showAll(ctx, s, f)
				}
				if f.pool != "" || f.node != "" {
					return fmt.Errorf("--pool and --node don't go with an address: %s has one owner in each space (--space)", args[0])
				}
				return e.showAddress(ctx, s, args[0], f.space)
			})
		},
	}
	command.Flags().StringVar(&f.pool, "pool", "", "only this `pool` and the blocks that it meets")
	command.Flags().StringVar(&f.space, "space", "", "only this address `space`")
	command.Flags().StringVar(&f.node, "node", "", "only blocks and claims of this `node`")
	return command
}

// parseAddr reads an address that a person wrote.
func parseAddr(text string) (netip.Addr, error) {
	addr, err := iprange.ParseAddr(text)
	if err != nil {
		return addr, fmt.Errorf("%q: write one address, such as 192.0.2.7 or 2001:db8::7: %w", text, err)
	}
	return addr, nil
}

func (e *env) showAll(ctx context.Context, s source, f filter) error {
	seen := newSeen(f)
	if err := seen.survey(ctx, s); err != nil {
		return err
	}
	view := seen.overview()
	if e.output == string(asJSON) {
		return printJSON(e.Out, view)
	}
	for _, part := range []struct {
		title string
		rows  [][]string
	}{
		{"POOLS", view.poolRows()},
		{"ADDRESS SPACES", view.spaceRows()},
		{"BLOCKS", view.blockRows(e.now())},
		{"CLAIMS", view.nodeRows()},
	} {
		if err := e.printPart(part.title, part.rows); err != nil {
			return err
		}
	}
	return view.printOdd(e.Out)
}

// printPart prints a table with a title; without rows but its head, nothing.
func (e *env) printPart(title string, rows [][]string) error {
	if len(rows) < 2 {
		return nil
	}
	fmt.Fprintln(e.Out, title)
	if err := table(e.Out, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.Out)
	return err
}

func (o overview) printOdd(out io.Writer) error {
	if len(o.Pools)+len(o.Spaces)+len(o.Blocks) == 0 {
		fmt.Fprintln(out, "nothing: no pool, address space or block")
	}
	for _, text := range o.Unreadable {
		fmt.Fprintln(out, "can't be read:", text)
	}
	return nil
}

func (o overview) poolRows() [][]string {
	rows := [][]string{{"NAME", "SPACE", "RANGES", "USABLE", "USED", "COOLING", "KEPT", "FREE", "DEFINITION"}}
	for _, p := range o.Pools {
		if p.Error != "" {
			rows = append(rows, []string{p.Name, p.Space, "can't be read: " + p.Error})
			continue
		}
		rows = append(rows, []string{
			p.Name, p.Space, strings.Join(p.Ranges, ","), short(p.usable), fmt.Sprint(p.Used), fmt.Sprint(p.Cooling), fmt.Sprint(p.Kept), short(p.free), p.Definition,
		})
	}
	return rows
}
