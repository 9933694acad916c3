package scenario

import (
	_ "embed"
	"errors"
	"os"

	"github.com/meta-cni/meta-cni/e2e/world"
)

//go:embed plugins/e2e-gate.sh
var gatePlugin []byte

//go:embed plugins/e2e-fail.sh
var failPlugin []byte

// InstallTestPlugins puts the plugins e2e-gate and e2e-fail on every node. They
// are scripts for the static busybox that is put beside them, so that they
// also run inside a container that has nothing but the plugin folder.
func InstallTestPlugins(w *world.World) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	for _, n := range w.Nodes {
		for name, content := range map[string][]byte{"busybox": busybox, "e2e-gate": gatePlugin, "e2e-fail": failPlugin} {
			path := "/opt/cni/bin/" + name
			if err := errors.Join(n.WriteFile(path, content), os.Chmod(n.Path(path), 0o755)); err != nil {
				return err
			}
		}
	}
	return nil
}
