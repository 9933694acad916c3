package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// bench makes a machine for the steps of standalone/README.md: its own
// network with a link eth0, and empty folders where the steps write.
const bench = `
set -euo pipefail
for folder in /etc /opt /var/lib /run /usr/local/bin; do mount -t tmpfs tmpfs $folder; done
mkdir -p /opt/cni/bin
cp %s/* /opt/cni/bin/
export PATH=/usr/local/bin:/opt/cni/bin:$PATH
ip link set lo up
ip link add eth0 type veth peer name wire
ip link set eth0 up
ip link set wire up
`

// await stands after the step that starts the daemon: a person is slower.
const await = `
for i in $(seq 100); do test -e /etc/cni/net.d/00-meta.conf && break; sleep 0.1; done
`

// outcome is what the steps should have led to.
const outcome = `
show() { ip -n $1 -o -4 address | while read -r _ name _ address _; do echo "$name $address"; done; }
echo == box; show box
echo == other; show other
CNI_ARGS='IgnoreUnknown=1' cnitool del meta-cni /run/netns/box
echo == box after del; show box
`

// steps are the fenced commands of a Markdown file.
func steps(t *testing.T, path string) string {
	t.Helper()
	var code strings.Builder
	fenced := false
	for line := range strings.Lines(string(readFile(t, path))) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			code.WriteString(line)
			if strings.HasSuffix(line, "&\n") {
				code.WriteString(await)
			}
		}
	}
	return code.String()
}

// TestStandaloneSteps does what standalone/README.md says, word for word, in
// namespaces that end with it.
func TestStandaloneSteps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes mount and network namespaces")
	}
	project := t.TempDir()
	if err := os.CopyFS(filepath.Join(project, "examples", "standalone"), os.DirFS("standalone")); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(project, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Build(t.Context(), bin, ""); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(bench, testnet.PluginDir(t)) + steps(t, "standalone/README.md") + outcome
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "--net",
		"--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script)
	cmd.Dir = filepath.Join(project, "examples", "standalone")
	var stderr strings.Builder // the daemon's log, at any time
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, text, &stderr)
	}
	_, got, _ := strings.Cut(string(text), "== box\n")
	want := `eth0 10.90.10.2/24
net1 10.90.11.2/24
net2 192.0.2.120/24
== other
eth0 10.90.10.3/24
net1 10.90.11.3/24
`
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "== box after del\n") {
		t.Errorf("got\n%s\nwant\n%s\nall:\n%s\n%s", got, want, text, &stderr)
	}
}
