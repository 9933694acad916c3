// Package scenario plays stories, written as testscript files (*.txtar), on a
// running world: pods are made, looked at and deleted, nodes and daemons are
// killed and come back. Every story has a Kubernetes namespace of its own and
// must leave every node as it found it; that is checked at its end.
//
// Commands that observe also wait, for a bounded time; no story sleeps.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/e2e/world"
)

// patience is how long a command waits for what it wants to see: long enough
// for a kubelet's second try after a failure, on a slow machine.
const patience = 90 * time.Second

// Daemon says how the stories find the node daemon that is under test.
type Daemon struct {
	Namespace string // of its DaemonSet
	Selector  string // label selector of its pods
	Process   string // name of its program, as in /proc/PID/comm
}

// Suite is a set of stories for one world.
type Suite struct {
	World *world.World
	// Files are the txtar files, played in this order, one after the other.
	Files []string
	// Daemon is what kill-daemon and daemon-ready act on.
	Daemon Daemon
}

// Run plays every story as a subtest of its own.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	if len(s.Files) == 0 {
		t.Fatal("no story to play")
	}
	testscript.RunT(serial{t}, testscript.Params{
		Files:               s.Files,
		Cmds:                commands(),
		Setup:               func(env *testscript.Env) error { return s.begin(env) },
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// serial keeps testscript from running stories at the same time: they share
// one world, and some of them break it for a while.
type serial struct{ *testing.T }

func (s serial) Parallel() {}

func (s serial) Verbose() bool { return testing.Verbose() }

func (s serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(serial{t}) })
}

// story is the state of one scenario while it is played.
type story struct {
	world     *world.World
	daemon    Daemon
	namespace string
	began     time.Time
	before    map[string]Belongings // node → what lay there at the start
	killed    map[string]int        // node → process that kill-daemon ended
	apiDown   bool
}

type storyKey struct{}

func (s Suite) begin(env *testscript.Env) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st := &story{
		world: s.World, daemon: s.Daemon, began: time.Now().UTC(),
		before: map[string]Belongings{}, killed: map[string]int{},
	}
	env.Values[storyKey{}] = st
	if err := st.makeNamespace(ctx); err != nil {
		return err
	}
	for _, n := range st.world.Nodes {
		before, err := LookAt(ctx, n)
		if err != nil {
			return err
		}
		st.before[n.Name] = before
		env.Setenv(strings.ToUpper(n.Name)+"_ADDR", n.Addr)
		env.Setenv(strings.ToUpper(n.Name)+"_PODS", n.PodSubnet)
	}
	env.Setenv("NAMESPACE", st.namespace)
	env.Setenv("API_ADDR", world.PodAPIAddr)
	env.Defer(func() { st.end(env.T()) })
	return nil
}

func (st *story) makeNamespace(ctx context.Context) error {
	client := st.world.Client().CoreV1()
	made, err := client.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "story-"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	st.namespace = made.Name
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		_, err := client.ServiceAccounts(st.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// end repairs what the story broke on purpose, deletes its namespace and fails
// it if anything of it is left on a node.
func (st *story) end(t testscript.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	failed := false
	if f, ok := t.(interface{ Failed() bool }); ok && f.Failed() {
		failed = true
		t.Log(st.report(ctx))
	}
	err := errors.Join(st.heal(ctx), st.deletePods(ctx))
	for _, n := range st.world.Nodes {
		err = errors.Join(err, st.clean(ctx, n))
	}
	err = errors.Join(err, st.world.Client().CoreV1().Namespaces().Delete(ctx, st.namespace, metav1.DeleteOptions{}))
	if err == nil {
		return
	}
	if !failed {
		t.Log(st.report(ctx))
	}
	t.Fatal(fmt.Sprintf("after the story: %v", err))
}

func (st *story) heal(ctx context.Context) error {
	var errs []error
	if st.apiDown {
		errs = append(errs, st.world.StartAPIServer(ctx))
		st.apiDown = false
	}
	for _, n := range st.world.Nodes {
		errs = append(errs, n.ThawContainerd(), st.world.HealAPI(ctx, n), releaseAll(n))
	}
	return errors.Join(errs...)
}

// deletePods deletes the story's pods and waits until they are gone; a pod
// that does not go is the product's fault and is removed by force.
func (st *story) deletePods(ctx context.Context) error {
	pods := st.world.Client().CoreV1().Pods(st.namespace)
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	err := world.Eventually(ctx, patience, func(ctx context.Context) error {
		left, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil || len(left.Items) == 0 {
			return err
		}
		return fmt.Errorf("pod %s is still there", left.Items[0].Name)
	})
	if err == nil {
		return nil
	}
	now := int64(0)
	return errors.Join(err, pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}))
}

// command is one verb of a story: it gets its arguments and writes what a
// following stdout line may look at. With ! in front, want is false.
type command struct {
	usage  string
	min    int // number of arguments at least
	negate bool
	run    func(ctx context.Context, c *call) error
}

// call is one line of a story.
type call struct {
	*story
	ts     *testscript.TestScript
	args   []string
	stdout io.Writer
}

func (c *call) node(name string) (*world.Node, error) { return c.world.Node(name) }

func commands() map[string]func(*testscript.TestScript, bool, []string) {
	all := map[string]func(*testscript.TestScript, bool, []string){}
	for _, group := range []map[string]command{objectCommands(), podCommands(), networkCommands(), nodeCommands(), faultCommands()} {
		for name, cmd := range group {
			all[name] = cmd.wrap(name)
		}
	}
	return all
}

func (cmd command) wrap(name string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg && !cmd.negate {
			ts.Fatalf("%s can't be negated", name)
		}
		if len(args) < cmd.min {
			ts.Fatalf("usage: %s %s", name, cmd.usage)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
		defer cancel()
		st, ok := ts.Value(storyKey{}).(*story)
		if !ok {
			ts.Fatalf("%s is for stories that a Suite plays", name)
		}
		err := cmd.run(ctx, &call{story: st, ts: ts, args: args, stdout: ts.Stdout()})
		switch {
		case neg && err == nil:
			ts.Fatalf("%s succeeded, but it should not", name)
		case neg:
			fmt.Fprintln(ts.Stdout(), err)
		case err != nil:
			ts.Fatalf("%s: %v", name, err)
		}
	}
}

// match fails unless the pattern is found in what was seen.
func match(pattern, seen, where string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	if !re.MatchString(seen) {
		return fmt.Errorf("%s does not match %q; seen:\n%s", where, pattern, seen)
	}
	return nil
}
