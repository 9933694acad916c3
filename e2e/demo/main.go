// Command demo shows meta-cni on one machine without Kubernetes: two hosts
// out of network namespaces with an underlay between them, on each the real
// daemon in standalone mode, and three pods with two or three interfaces each,
// attached as a container runtime does it.
//
// Everything that it prints comes from the plugin's results and from the
// kernel. It fails when anything is not as it should be, and removes all that
// it made, also then and on Ctrl-C.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// limit bounds the whole demo once everything is built.
const limit = 2 * time.Minute

func main() {
	bin := flag.String("bin", "", "folder of meta-cni and meta-cnid; built when empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, node.Binaries(*bin)); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "demo failed:", err)
		os.Exit(1)
	}
}

// run plays the demo, and looks afterwards whether really nothing is left.
func run(ctx context.Context, out io.Writer, bin node.Binaries) error {
	dir, err := makeDir()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if bin == "" {
		fmt.Fprintln(out, "building meta-cni and meta-cnid")
		if bin, err = node.Build(ctx, dir, ""); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	if err := play(ctx, out, func(s *stage) { perform(s, bin, dir) }); err != nil {
		return err
	}
	if err := nothingLeft(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nAll is as it should be, and nothing is left. It took %s.\n", time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// perform is the whole story.
func perform(s *stage, bin node.Binaries, dir string) {
	s.title("Two hosts and a router on one underlay; meta-cnid on both hosts")
	world := build(s, bin, dir)

	s.title("Three pods, attached through meta-cni as a runtime does it")
	for _, p := range world.pods {
		p.add(s)
	}

	s.title("Who is wired to what (from the kernel)")
	s.print(draw(world.view(s)))

	s.title("Who has which address of the network lan, whose range both hosts share")
	world.showAddresses(s)

	s.title("Traffic")
	world.traffic(s)

	s.title("CHECK and DEL")
	for _, p := range world.pods {
		p.check(s)
	}
	for _, p := range world.pods {
		p.remove(s)
	}
	world.empty(s)
}
