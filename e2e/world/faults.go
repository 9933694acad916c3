package world

import (
	"context"
	"fmt"
	"strings"
)

// cutRules drop all that goes to or comes from the API server's address for
// pods, also of connections that stand already.
const cutRules = `table inet mce2e_cut {
	chain out { type filter hook output priority -300; ip daddr %[1]s drop; }
	chain in { type filter hook input priority -300; ip saddr %[1]s drop; }
}
`

// CutAPI closes the node's way to the API server at PodAPIAddr: packets are
// dropped without an answer, as when a cable is cut. The kubelet has another
// way and goes on.
func (w *World) CutAPI(ctx context.Context, n *Node) error {
	if _, err := n.Exec(ctx, "sh", "-c", "nft -f - <<'EOF'\n"+fmt.Sprintf(cutRules, PodAPIAddr)+"EOF"); err != nil {
		return fmt.Errorf("cut the way to the API server: %w", err)
	}
	return nil
}

// HealAPI opens again what CutAPI closed; it does nothing if nothing is cut.
func (w *World) HealAPI(ctx context.Context, n *Node) error {
	tables, err := n.Exec(ctx, "nft", "list", "tables")
	if err != nil || !strings.Contains(tables, "mce2e_cut") {
		return err
	}
	_, err = n.Exec(ctx, "nft", "delete", "table", "inet", "mce2e_cut")
	return err
}
