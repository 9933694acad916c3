//go:build e2e

package metactl

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBinary: the program is static, ends with the command's exit code, and is
// kubectl's plugin under its other name.
func TestBinary(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "metactl")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/meta-cni/meta-cni/cmd/metactl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	plugin := filepath.Join(dir, "kubectl-meta")
	if err := os.Symlink(program, plugin); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{program, "ipam", "--help"}, 0, "  metactl ipam [command]"},
		{[]string{plugin, "ipam", "show", "--help"}, 0, "  kubectl meta ipam show [ADDRESS] [flags]"},
		{[]string{program, "ipam", "check", "--kubeconfig", "/nowhere"}, 2, "no cluster is named: give --kubeconfig FILE"},
		{[]string{program, "ipam", "show", "--kubeconfig", "/nowhere"}, 1, "no cluster is named"},
		{[]string{program, "ipam", "shwo"}, 1, `unknown command "shwo" for "metactl ipam"; did you mean show?`},
		{[]string{plugin, "adresses"}, 1, `unknown command "adresses" for "kubectl meta"`},
		{[]string{program, "ipam", "check", "--frobnicate"}, 2, "unknown flag: --frobnicate"},
	} {
		cmd := exec.CommandContext(t.Context(), c.args[0], c.args[1:]...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, want exit code %d and %q in\n%s", strings.Join(c.args, " "), err, c.code, c.want, out)
		}
	}
}
