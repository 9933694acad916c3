package exec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/delegate"
)

// bench is a folder of plugins and a Runner.
type bench struct {
	testing.TB
	*Runner
	bin, cache string
}

func newBench(t testing.TB, builtins map[string]delegate.Delegate) *bench {
	t.Helper()
	b := &bench{TB: t, bin: t.TempDir(), cache: t.TempDir()}
	b.Runner = New(Options{CacheDir: b.cache, Builtins: builtins, Socket: "/run/test.sock", Log: slog.New(slog.DiscardHandler)})
	for _, name := range []string{"one", "two"} {
		b.install(name)
	}
	return b
}

func (b *bench) install(name string) {
	b.Helper()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, b.path(name))
	}
	b.must(err)
}

// copyPlugin installs a file of its own, which can be opened for writing.
func (b *bench) copyPlugin(name string) {
	b.Helper()
	self, err := os.Executable()
	b.must(err)
	data, err := os.ReadFile(self)
	b.must(err)
	b.must(os.WriteFile(b.path(name), data, 0o755))
}

func (b *bench) path(name string) string { return filepath.Join(b.bin, name) }

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// list is a configuration list; plugins are JSON objects without braces.
func list(version string, plugins ...string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"net","plugins":[{%s}]}`, version, strings.Join(plugins, "},{"))
}

// does is a plugin of type "one" that behaves so.
func does(on string, does behaviour) string {
	does.On = on
	raw, err := json.Marshal(does)
	if err != nil {
		panic(err)
	}
	return `"type":"one","test":` + string(raw)
}

func (b *bench) call(conf string) Call {
	return Call{
		Plan: &attach.Plan{
			Key:  attach.Key{ContainerID: "c1", IfName: "eth0"},
			Path: []string{b.bin},
			Delegates: []attach.Delegate{{
				Network: "net", Conf: []byte(conf), IfName: "eth0",
				Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "pod"}},
			}},
		},
		Netns: "/run/netns/x",
	}
}

// calls are the runs of plugins that got a configuration, in their order.
func (b *bench) calls() []invocation {
	b.Helper()
	data, err := os.ReadFile(b.path("calls"))
	if os.IsNotExist(err) {
		return nil
	}
	b.must(err)
	var all []invocation
	for line := range bytes.Lines(data) {
		var one invocation
		b.must(json.Unmarshal(line, &one))
		all = append(all, one)
	}
	return all
}

// await waits until what holds, for at most ten seconds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited ten seconds for: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// child is the process that the plugin left behind.
func (b *bench) child() int {
	b.Helper()
	await(b, "the plugin's child", func() bool { return exists(b.path("child")) })
	data, err := os.ReadFile(b.path("child"))
	b.must(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	b.must(err)
	return pid
}

// runs says whether a process is there and not a zombie.
func runs(pid int) bool {
	st, err := readStat(pid)
	return err == nil && !st.zombie
}

func writeScript(t testing.TB, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}
