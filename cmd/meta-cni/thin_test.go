package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

// fakeOneshot is "meta-cnid oneshot" as this test needs it.
func fakeOneshot(how string) int {
	if len(os.Args) != 2 || os.Args[1] != "oneshot" {
		fmt.Fprintln(os.Stderr, "called with", os.Args)
		return 2
	}
	req := new(wire.Request)
	if err := wire.ReadFrame(os.Stdin, req); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Fprintln(os.Stderr, "log line")
	reply := &wire.Reply{Version: 1}
	switch how {
	case "echo":
		reply.Result, _ = json.Marshal(req)
	case "error":
		reply.Error = &wire.Error{CNIVersion: "1.1.0", Code: 7, Msg: "m"}
	case "silent":
		return 3
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Minute) // longer than anybody waits
	case "hang":
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		mark := os.Getenv("META_CNI_TEST_MARK")
		_ = os.WriteFile(mark, []byte("begun"), 0o600)
		<-told
		_ = os.WriteFile(mark, []byte("told"), 0o600)
		return 4
	}
	if err := wire.WriteFrame(os.Stdout, reply); err != nil {
		return 2
	}
	return 0
}

// installOneshot makes dir/meta-cnid, a program that behaves in that way.
func installOneshot(t *testing.T, dir, how, mark string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, daemonName)
	script := fmt.Sprintf("#!/bin/sh\nMETA_CNI_TEST_ONESHOT=%s META_CNI_TEST_MARK=%s exec %s \"$@\"\n", how, mark, self)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestThinMode(t *testing.T) {
	for _, test := range []struct {
		how, command string
		check        func(t *testing.T, o outcome, w world)
	}{
		{"echo", "ADD", func(t *testing.T, o outcome, _ world) {
			var got wire.Request
			if err := json.Unmarshal([]byte(o.stdout), &got); err != nil || got.Command != "ADD" || got.Plugin != "meta-cni" || o.code != 0 {
				t.Errorf("exit %d, %v, %+v", o.code, err, got)
			}
			if o.stderr != "log line\n" {
				t.Errorf("standard error %q", o.stderr)
			}
		}},
		{"error", "ADD", func(t *testing.T, o outcome, _ world) { o.wantError(t, 7, "m") }},
		{"silent", "ADD", func(t *testing.T, o outcome, _ world) { o.wantError(t, 11, "exit status 3", "no answer", "oneshot") }},
		{"silent", "STATUS", func(t *testing.T, o outcome, _ world) { o.wantError(t, 50, "exit status 3") }},
		{"silent", "DEL", func(t *testing.T, o outcome, w world) {
			o.wantError(t, 11, "exit status 3")
			if entries := w.spooled(t); len(entries) > 0 {
				t.Error("no daemon works off", entries)
			}
		}},
	} {
		t.Run(test.how+" "+test.command, func(t *testing.T) {
			w := newWorld(t)
			folder := filepath.Join(w.dir, "bin")
			installOneshot(t, folder, test.how, "")
			c := call{env: env(test.command, "CNI_PATH=/nowhere:"+folder), stdin: w.conf(t, map[string]any{"mode": "thin"})}
			test.check(t, c.run(t), w)
		})
	}
}

func TestThinModeEndsAOneshotThatHangs(t *testing.T) {
	w := newWorld(t)
	mark := filepath.Join(w.dir, "mark")
	binary := installOneshot(t, w.dir, "hang", mark)
	begin := time.Now()
	p := quick("ADD", w.conf(t, map[string]any{"mode": "thin", "daemonBinary": binary}))
	p.budgets.add = 2 * time.Second
	out := p.run()
	wantError(t, string(out.text), out.code, 11, "did not answer in time", binary)
	if took := time.Since(begin); took > 2*time.Second+endWait {
		t.Error("took", took)
	}
	if text, err := os.ReadFile(mark); err != nil || string(text) != "told" {
		t.Errorf("%q, %v: it was not asked to end", text, err)
	}
}

// A runtime asks STATUS without a limit of its own.
func TestThinModeBoundsStatus(t *testing.T) {
	w := newWorld(t)
	binary := installOneshot(t, w.dir, "stubborn", filepath.Join(w.dir, "mark"))
	begin := time.Now()
	p := quick("STATUS", w.conf(t, map[string]any{"mode": "thin", "daemonBinary": binary}))
	p.budgets.status = defaultBudgets().status
	out := p.run()
	wantError(t, string(out.text), out.code, 50, "did not answer in time", binary)
	if took := time.Since(begin); took > defaultBudgets().status {
		t.Error("took", took)
	}
}

func TestThinModeTellsTheOneshotThatThePluginWasKilled(t *testing.T) {
	w := newWorld(t)
	mark := filepath.Join(w.dir, "mark")
	binary := installOneshot(t, w.dir, "hang", mark)
	cmd := call{env: env("ADD"), stdin: w.conf(t, map[string]any{"mode": "thin", "daemonBinary": binary})}.cmd(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, mark, "begun")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	await(t, mark, "told")
}

// await waits until the file says want.
func await(t *testing.T, path, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil && bytes.Equal(text, []byte(want)) {
			return
		}
	}
	t.Fatalf("%s does not say %q", path, want)
}

func TestFindDaemon(t *testing.T) {
	dir := t.TempDir()
	own, first, second := filepath.Join(dir, "own"), filepath.Join(dir, "1"), filepath.Join(dir, "2")
	installOneshot(t, own, "x", "")
	installOneshot(t, second, "x", "")
	loose := installOneshot(t, filepath.Join(dir, "loose"), "x", "")
	foreign := installOneshot(t, filepath.Join(dir, "foreign"), "x", "")
	plain := filepath.Join(dir, "plain")
	if err := errors.Join(os.Chmod(loose, 0o777), os.Chown(foreign, 65534, 65534), os.WriteFile(plain, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, named, own, path string
		want                   string // a path, or a part of the error after "!"
	}{
		{"named", filepath.Join(second, daemonName), own, first, filepath.Join(second, daemonName)},
		{"beside the plugin", "", own, second, filepath.Join(own, daemonName)},
		{"in the plugin folders", "", first, "rel::" + first + ":" + second, filepath.Join(second, daemonName)},
		{"nowhere", "", first, first, `!"daemonBinary"`},
		{"named, not there", "/nowhere/x", own, second, "!no such file"},
		{"named, relative", "bin/x", own, second, "!absolute"},
		{"writable by others", "", filepath.Dir(loose), "", "!writable"},
		{"of another user", foreign, "", "", "!uid 65534"},
		{"not executable", plain, "", "", "!not an executable"},
		{"a folder", dir, "", "", "!not an executable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := findDaemon(test.named, test.own, test.path)
			if text, fails := strings.CutPrefix(test.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("got %q, %v, want an error with %q", got, err, text)
				}
				return
			}
			if got != test.want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestThinModeWithoutItsProgram(t *testing.T) {
	w := newWorld(t)
	for command, code := range map[string]uint{"ADD": 11, "STATUS": 50, "DEL": 11} {
		conf := w.conf(t, map[string]any{"mode": "thin", "daemonBinary": "/nowhere/meta-cnid"})
		call{env: env(command), stdin: conf}.run(t).wantError(t, code, "/nowhere/meta-cnid", `mode "thin"`)
	}
}
