package confgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// observer reads our file in a loop, as a runtime might at any moment. What an
// attack of the test itself has put there is excused.
type observer struct {
	path    string
	attack  atomic.Bool
	once    sync.Once
	stop    chan struct{}
	done    chan struct{}
	looks   int
	invalid string
}

func observe(dir string) *observer {
	o := &observer{path: filepath.Join(dir, ConfName), stop: make(chan struct{}), done: make(chan struct{})}
	go o.loop()
	return o
}

func (o *observer) loop() {
	defer close(o.done)
	for {
		excused := o.attack.Load()
		data, err := os.ReadFile(o.path)
		excused = excused || o.attack.Load()
		if err == nil && !excused && !isOurs(data) {
			o.invalid = string(data)
		}
		o.looks++
		select {
		case <-o.stop:
			return
		default:
		}
	}
}

func (o *observer) end() {
	o.once.Do(func() { close(o.stop) })
	<-o.done
}

func isOurs(data []byte) bool {
	n, err := parse(File{Name: ConfName, Data: data})
	return err == nil && n.name == NetworkName && n.types[0] == PluginType
}

// step is one change of the folder by somebody else.
type step struct {
	kind string
	a, b string
	body int
}

func genStep(t *rapid.T) step {
	names := []string{"10-a.conf", "20-b.conflist", "30-c.json"}
	return step{
		kind: rapid.SampledFrom([]string{"whole", "whole", "half", "replace", "rename", "delete", "remove-ours", "rename-ours", "cut-ours", "edit-ours", "remake"}).Draw(t, "kind"),
		a:    rapid.SampledFrom(names).Draw(t, "a"),
		b:    rapid.SampledFrom(names).Draw(t, "b"),
		body: rapid.IntRange(0, 3).Draw(t, "body"),
	}
}

// content is a valid configuration for the file's extension.
func content(file string, body int) string {
	plugin := fmt.Sprintf(`"type": "t%d", "capabilities": {"cap%d": true}`, body, body)
	if filepath.Ext(file) == extList {
		return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "n%d", "plugins": [{%s}]}`, body, plugin)
	}
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "n%d", %s}`, body, plugin)
}

// apply makes the change; it fails only for other reasons than that files or
// the folder come and go.
func (s step) apply(dir string) error {
	path := func(name string) string { return filepath.Join(dir, name) }
	var err error
	switch s.kind {
	case "whole":
		err = os.WriteFile(path(s.a), []byte(content(s.a, s.body)), 0o600)
	case "half":
		err = os.WriteFile(path(s.a), []byte(content(s.a, s.body)[:20*s.body]), 0o600)
	case "replace":
		err = os.WriteFile(path("new.tmp"), []byte(content(s.a, s.body)), 0o600)
		err = errors.Join(err, os.Rename(path("new.tmp"), path(s.a)))
	case "rename":
		err = os.Rename(path(s.a), path(s.b))
	case "delete":
		err = os.Remove(path(s.a))
	case "remove-ours":
		err = os.Remove(path(ConfName))
	case "rename-ours":
		err = os.Rename(path(ConfName), path(ConfName+".cilium_bak"))
	case "cut-ours":
		err = os.Truncate(path(ConfName), int64(10*s.body))
	case "edit-ours":
		err = os.WriteFile(path(ConfName), []byte(content(ConfName, s.body)), 0o600)
	case "remake":
		_ = os.RemoveAll(dir)
		err = os.MkdirAll(dir, 0o700)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (s step) onOurs() bool { return s.kind == "cut-ours" || s.kind == "edit-ours" }

func (s step) String() string { return fmt.Sprintf("%s(%s,%s,%d)", s.kind, s.a, s.b, s.body) }

// quietFights lets a test attack without the back-off in the way.
func quietFights(g *Generator) {
	g.pass.Lock()
	defer g.pass.Unlock()
	g.own.fights = fights{}
}

// TestAnySequence: whatever others do to the folder, our file is absent or
// whole at every moment that it is looked at, and at rest it is what the files
// alone say, whatever the way there was.
func TestAnySequence(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(genStep), 1, 12).Draw(rt, "steps")
		n := newNode(t, func(o *Options) {
			o.RetryInterval, o.Grace, o.Settle = 5*time.Millisecond, 20*time.Millisecond, 10*time.Millisecond
		})
		stop := n.start()
		defer stop()
		o := observe(n.dir)
		defer o.end()
		for _, s := range steps {
			if s.onOurs() {
				o.attack.Store(true)
			}
			if err := s.apply(n.dir); err != nil {
				rt.Fatalf("%s: %v", s, err)
			}
			quietFights(n.gen)
			if s.onOurs() {
				n.awaitRepair(s)
			}
			o.attack.Store(false)
		}
		n.rest(steps)
		o.end()
		if o.invalid != "" || o.looks == 0 {
			rt.Fatalf("in %d looks one saw %q", o.looks, o.invalid)
		}
	})
}

// awaitRepair waits until our file is whole. As long as there has been no
// primary there is nothing to make it from, and the test takes it away itself.
func (n *node) awaitRepair(s step) {
	n.t.Helper()
	n.eventually("repaired after "+s.String(), func() bool {
		data, err := os.ReadFile(n.path(ConfName))
		if err != nil || isOurs(data) {
			return true
		}
		if _, err := n.gen.Primary(); err != nil {
			_ = os.Remove(n.path(ConfName)) // looked at again above
		}
		return false
	})
}

// start runs the generator until the returned function is called.
func (n *node) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.gen.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	}
}

// rest waits until our file is what the folder says, and fails if that never
// comes. Without a usable file the last good one stays.
func (n *node) rest(steps []step) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("rest after %v", steps), func() bool {
		quietFights(n.gen)
		files, err := readDir(n.dir)
		if err != nil {
			return false
		}
		got, err := os.ReadFile(n.path(ConfName))
		c, chooseErr := Choose(files, Pin{})
		if chooseErr != nil {
			return errors.Is(err, os.ErrNotExist) || isOurs(got)
		}
		want, genErr := Generate(c, Settings{})
		return err == nil && genErr == nil && bytes.Equal(want, got)
	})
}
