// Package node is a node with meta-cni on it, for tests and the demo: a
// network namespace with folders of its own, the real daemon running in it in
// standalone mode, and the real plugin called as a runtime calls it.
//
// It never runs in a cluster; that is e2e/world.
package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meta-cni/meta-cni/pkg/testnet"
)

// Binaries is the folder of meta-cni and meta-cnid.
type Binaries string

// Build builds both into a folder; tags are build tags, such as failpoint.
func Build(ctx context.Context, dir, tags string) (Binaries, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", tags, "-o", dir+"/",
		"github.com/meta-cni/meta-cni/cmd/meta-cni", "github.com/meta-cni/meta-cni/cmd/meta-cnid")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	for _, name := range []string{"meta-ipam", "whereabouts"} {
		if err := os.Symlink("meta-cni", filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return Binaries(dir), nil
}

// Node is one node.
type Node struct {
	*testnet.Host
	// Dir holds all folders: net.d, objects, state, run, leases.
	Dir string
	// Plugins is the folder of the reference plugins.
	Plugins string

	tb     testnet.TB
	bin    Binaries
	daemon *exec.Cmd
	ended  <-chan error
}

// New makes the node's folders. The daemon isn't started.
func New(tb testnet.TB, host *testnet.Host, bin Binaries, dir string) *Node {
	tb.Helper()
	n := &Node{Host: host, Dir: dir, Plugins: testnet.PluginDir(tb), tb: tb, bin: bin}
	for _, sub := range []string{"net.d", "objects", "leases"} {
		n.must(os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	n.Config("")
	return n
}

func (n *Node) must(err error) {
	n.tb.Helper()
	if err != nil {
		n.tb.Fatalf("%s: %v", n.Name, err)
	}
}

// Config writes the daemon's configuration with further lines of YAML.
func (n *Node) Config(more string) {
	n.tb.Helper()
	n.Write("config.yaml", fmt.Sprintf(`mode: standalone
confDir: %[1]s/net.d
stateDir: %[1]s/state
runDir: %[1]s/run
objectsDir: %[1]s/objects
binDirs: [%[2]s]
%[3]s`, n.Dir, n.Plugins, more))
}

// Write writes a file below Dir; $DIR in its content becomes Dir.
func (n *Node) Write(name, content string) {
	n.tb.Helper()
	path := filepath.Join(n.Dir, name)
	n.must(os.MkdirAll(filepath.Dir(path), 0o755))
	n.must(os.WriteFile(path, []byte(strings.ReplaceAll(content, "$DIR", n.Dir)), 0o644))
}

// Network writes a network definition default/name with a configuration.
func (n *Node) Network(name, config string) {
	n.tb.Helper()
	quoted, err := json.Marshal(strings.ReplaceAll(config, "$DIR", n.Dir))
	n.must(err)
	n.Write("objects/"+name+".yaml", fmt.Sprintf(`apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %s, namespace: default}
spec: {config: %s}
`, name, quoted))
}

// Start starts the daemon with further environment variables and waits until
// it is ready or has ended.
func (n *Node) Start(env ...string) {
	n.tb.Helper()
	n.StartWithin(10*time.Second, env...)
}

// StartWithin is Start with a limit to the wait; with 0 it doesn't wait.
func (n *Node) StartWithin(limit time.Duration, env ...string) {
	n.tb.Helper()
	log, err := os.OpenFile(filepath.Join(n.Dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	n.must(err)
	n.daemon = exec.Command(filepath.Join(string(n.bin), "meta-cnid"), "run", "--config", filepath.Join(n.Dir, "config.yaml"))
	n.daemon.Env = append(os.Environ(), env...)
	n.daemon.Stderr = log
	n.ended = n.Host.Start(n.daemon)
	n.must(log.Close())
	if limit > 0 {
		n.awaitReady(limit)
	}
}

func (n *Node) awaitReady(limit time.Duration) {
	n.tb.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if n.Ended() {
			return
		}
		if reply := n.Plugin("STATUS", Sandbox{}); reply.Err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.tb.Fatalf("%s: the daemon isn't ready after %s\n%s", n.Name, limit, n.Log())
}

// Ended says whether the daemon's process has ended.
func (n *Node) Ended() bool {
	select {
	case err, open := <-n.ended:
		if open {
			closed := make(chan error)
			close(closed)
			n.ended = closed
			_ = err
		}
		return true
	default:
		return false
	}
}

// Pid of the daemon.
func (n *Node) Pid() int { return n.daemon.Process.Pid }

// Signal sends a signal to the daemon and waits for its end.
func (n *Node) Signal(sig os.Signal) {
	n.tb.Helper()
	if n.Ended() {
		return
	}
	if err := n.daemon.Process.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
		n.must(err)
	}
	n.AwaitEnd(40 * time.Second)
}

// AwaitEnd waits for the daemon's end.
func (n *Node) AwaitEnd(limit time.Duration) {
	n.tb.Helper()
	for deadline := time.Now().Add(limit); !n.Ended(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.tb.Fatalf("%s: the daemon hasn't ended after %s\n%s", n.Name, limit, n.Log())
		}
	}
}

// Log is what the daemon wrote.
func (n *Node) Log() string {
	data, err := os.ReadFile(filepath.Join(n.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Sandbox says for what the plugin is called.
type Sandbox struct {
	ContainerID string
	Netns       string
	// IfName is eth0 when empty.
	IfName string
	Args   string
	// Capabilities become runtimeConfig.
	Capabilities map[string]any
	// Extra are further keys of the configuration.
	Extra map[string]any
	// Env are further variables of the plugin's environment.
	Env []string
}

// Reply is what the plugin printed.
type Reply struct {
	Stdout []byte
	Stderr string
	// Err is the CNI error that was printed, or why there is none.
	Err error
	// Took is the time of the whole process.
	Took time.Duration
}

// Result of an ADD.
func (r Reply) Result() (*types100.Result, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	result := &types100.Result{}
	return result, json.Unmarshal(r.Stdout, result)
}

// Code is the CNI error code, 0 for none.
func (r Reply) Code() uint {
	if e, ok := r.Err.(*types.Error); ok { //nolint:errorlint // made below, never wrapped
		return e.Code
	}
	return 0
}

// Plugin calls the plugin as a runtime does, with the content of 00-meta.conf.
func (n *Node) Plugin(command string, s Sandbox) Reply {
	n.tb.Helper()
	conf, err := n.conf(s)
	if err != nil {
		return Reply{Err: err}
	}
	cmd := n.command(command, s, conf)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err = n.Host.Exec(cmd)
	reply := Reply{Stdout: stdout.Bytes(), Stderr: stderr.String(), Took: time.Since(start), Err: err}
	if err != nil {
		printed := &types.Error{}
		if json.Unmarshal(reply.Stdout, printed) == nil && printed.Msg != "" {
			reply.Err = printed
		}
	}
	return reply
}

// PluginContext calls the plugin and kills it when ctx ends, as a runtime that
// gives up does. The error is the process's.
func (n *Node) PluginContext(ctx context.Context, command string, s Sandbox) error {
	conf, err := n.conf(s)
	if err != nil {
		return err
	}
	cmd := n.command(command, s, conf)
	killable := exec.CommandContext(ctx, cmd.Path)
	killable.Env, killable.Stdin = cmd.Env, cmd.Stdin
	return n.Host.Exec(killable)
}

func (n *Node) command(command string, s Sandbox, conf []byte) *exec.Cmd {
	if s.IfName == "" {
		s.IfName = "eth0"
	}
	cmd := exec.Command(filepath.Join(string(n.bin), "meta-cni"))
	cmd.Env = append([]string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + s.ContainerID, "CNI_NETNS=" + s.Netns,
		"CNI_IFNAME=" + s.IfName, "CNI_ARGS=" + s.Args, "CNI_PATH=" + n.Plugins + ":" + string(n.bin),
	}, s.Env...)
	cmd.Stdin = bytes.NewReader(conf)
	return cmd
}

// conf is 00-meta.conf as a runtime fills it in.
func (n *Node) conf(s Sandbox) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(n.Dir, "net.d", "00-meta.conf"))
	if err != nil {
		return nil, err
	}
	conf := map[string]any{}
	if err := json.Unmarshal(data, &conf); err != nil {
		return nil, err
	}
	if s.Capabilities != nil {
		conf["runtimeConfig"] = s.Capabilities
	}
	for key, value := range s.Extra {
		conf[key] = value
	}
	return json.Marshal(conf)
}

// Left lists everything on the node that an attachment may leave behind:
// journal and cache files, spool, leases, and host interfaces that aren't in
// keep. It is empty after a clean DEL.
func (n *Node) Left(keep ...string) []string {
	n.tb.Helper()
	var left []string
	for _, dir := range []string{"state/attachments", "state/libcni", "state/spool", "leases"} {
		left = append(left, n.files(dir)...)
	}
	links, err := n.Interfaces()
	n.must(err)
	for _, link := range links {
		if !contains(keep, link) {
			left = append(left, "link "+link)
		}
	}
	sort.Strings(left)
	return left
}

// files lists the files of a folder, but for what host-local keeps for itself.
func (n *Node) files(dir string) []string {
	var found []string
	root := filepath.Join(n.Dir, dir)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // a folder that isn't there holds nothing
		}
		if name := entry.Name(); name != "lock" && !strings.HasPrefix(name, "last_reserved_ip") {
			found = append(found, strings.TrimPrefix(path, n.Dir+"/"))
		}
		return nil
	})
	n.must(err)
	return found
}

func contains(list []string, item string) bool {
	for _, other := range list {
		if other == item {
			return true
		}
	}
	return false
}
