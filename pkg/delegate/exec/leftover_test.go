package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/journal"
)

// group is a process group as a killed daemon leaves it: a shell that was
// started for a container, and its child.
type group struct {
	*osexec.Cmd
	journal.Process
	child  int
	reaped bool
}

// newGroup starts one; with orphan the shell ends at once and stays a zombie
// until it is reaped.
func newGroup(t *testing.T, containerID string, orphan bool) *group {
	t.Helper()
	return startGroup(t, containerID, "sleep 3600", orphan)
}

func startGroup(t *testing.T, containerID, child string, orphan bool) *group {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	script := child + " >&- & echo $!; wait"
	if orphan {
		script = child + " >&- & echo $!"
	}
	g := &group{Cmd: osexec.Command("/bin/sh", "-c", script)}
	g.Stdout = write
	g.Env = []string{"PATH=/bin:/usr/bin", "CNI_CONTAINERID=" + containerID}
	g.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := errors.Join(g.Start(), write.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-g.Cmd.Process.Pid, syscall.SIGKILL)
		g.reap()
	})
	line := make([]byte, 32)
	n, err := read.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	if g.child, err = strconv.Atoi(strings.TrimSpace(string(line[:n]))); err != nil {
		t.Fatal(err)
	}
	start, err := startTime(g.Cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	g.Process = journal.Process{Group: g.Cmd.Process.Pid, StartTime: start}
	if orphan {
		await(t, "the leader is a zombie", func() bool { return !runs(g.Group) })
	}
	return g
}

func (g *group) reap() {
	if !g.reaped {
		_ = g.Wait()
		g.reaped = true
	}
}

func TestEndLeftover(t *testing.T) {
	tests := []struct {
		name        string
		containerID string
		orphan      bool
		reap        bool
		// other makes the record one of another process with the same number.
		other uint64
		ended bool
		bare  bool
	}{
		{name: "child without environment", containerID: "c1", bare: true, ended: true},
		{name: "child without environment, leader is a zombie", containerID: "c1", bare: true, orphan: true, ended: true},
		{name: "child without environment, leader is gone: nobody knows whose it is", containerID: "c1", bare: true, orphan: true, reap: true},
		{name: "group", containerID: "c1", ended: true},
		{name: "leader is a zombie", containerID: "c1", orphan: true, ended: true},
		{name: "leader is gone", containerID: "c1", orphan: true, reap: true, ended: true},
		{name: "number given away again", containerID: "c2", other: 1},
		{name: "number given away again, leader gone", containerID: "c2", orphan: true, reap: true, other: 1},
		{name: "container whose ID begins alike", containerID: "c11", other: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			child := "sleep 3600"
			if tt.bare {
				child = "exec env -i sleep 3600"
			}
			g := startGroup(t, tt.containerID, child, tt.orphan)
			if tt.bare {
				await(t, "the child has no environment", func() bool { return nameOf(t, g.child) == "sleep" })
			}
			bystander := newGroup(t, "c1", false)
			if tt.reap {
				g.reap()
			}
			g.StartTime -= tt.other
			if err := EndLeftover(t.Context(), "c1", g.Process); err != nil {
				t.Fatal(err)
			}
			if runs(g.child) == tt.ended {
				t.Errorf("the child runs: %v", runs(g.child))
			}
			if !tt.orphan && runs(g.Group) == tt.ended {
				t.Errorf("the leader runs: %v", runs(g.Group))
			}
			if !runs(bystander.Group) || !runs(bystander.child) {
				t.Error("another group of the same container was ended")
			}
		})
	}
}

func nameOf(t *testing.T, pid int) string {
	t.Helper()
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

func TestEndLeftoverOfNothing(t *testing.T) {
	g := newGroup(t, "c1", false)
	_ = syscall.Kill(-g.Group, syscall.SIGKILL)
	g.reap()
	await(t, "the child is gone", func() bool { return !runs(g.child) })
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := EndLeftover(ctx, "c1", g.Process); err != nil {
		t.Errorf("nothing is left, and the context isn't asked: %v", err)
	}
}

// The name of a command may hold what separates the fields after it.
func TestReadStatOfAwkwardName(t *testing.T) {
	b := newBench(t, nil)
	sleep, err := osexec.LookPath("sleep")
	b.must(err)
	b.must(os.Symlink(sleep, b.path(") Z 1 (x")))
	cmd := osexec.Command(b.path(") Z 1 (x"), "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	b.must(cmd.Start())
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	st, err := readStat(cmd.Process.Pid)
	if err != nil || st.group != cmd.Process.Pid || st.zombie || st.start == 0 {
		t.Errorf("%+v, %v", st, err)
	}
}
