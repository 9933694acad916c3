package main

import (
	"bytes"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/cli"
	cliipam "github.com/meta-cni/meta-cni/pkg/cli/ipam"
)

// showAddresses prints what an operator sees of the addresses of lan.
func (w *world) showAddresses(s *stage) {
	for _, p := range w.pods {
		if !strings.Contains(p.networks, "lan") {
			continue
		}
		addr := p.address(s, "net1", false).String()
		s.print("  metactl ipam show " + addr + "\n")
		var out bytes.Buffer
		streams := cli.Streams{Out: &out, Err: &out}
		root := cli.Root("metactl", "", streams, cliipam.Command(streams))
		if code := cli.Run(s.ctx, root, []string{"ipam", "show", addr, "--dir", w.addresses}, &out); code != 0 {
			s.Fatalf("metactl ipam show %s: exit code %d: %s", addr, code, out.String())
		}
		for line := range strings.Lines(out.String()) {
			s.print("    " + line)
		}
	}
}
