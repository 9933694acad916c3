package dir

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func grid() iprange.Grid { return iprange.DefaultGrid() }

// process is another process on the folder.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func start(t *testing.T, dir, name, work string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), childDir+"="+dir, childWork+"="+work, childName+"="+name)
	p.cmd.Stderr = &p.stderr
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	must(t, err)
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	p.stdout = bufio.NewReader(out)
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	return p
}

// ready waits for the process's first line.
func (p *process) ready(t *testing.T) {
	t.Helper()
	if line, err := p.stdout.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q %v %s", line, err, p.stderr.String())
	}
}

// rest is what the process says until its end.
func (p *process) rest(t *testing.T) string {
	t.Helper()
	out, err := io.ReadAll(p.stdout)
	must(t, err)
	if err := p.cmd.Wait(); err != nil && p.stderr.Len() > 0 {
		t.Errorf("%v: %s", err, p.stderr.String())
	}
	return string(out)
}

func leftovers(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, tempFolder))
	must(t, err)
	return entries
}

// TestManyProcessesCreate: of many processes that make the same names, exactly
// one wins each.
func TestManyProcessesCreate(t *testing.T) {
	const processes, names = 4, 200
	dir := t.TempDir()
	var all []*process
	for n := range processes {
		all = append(all, start(t, dir, fmt.Sprint("p", n), fmt.Sprint("create ", names)))
	}
	for _, p := range all {
		p.ready(t)
	}
	for _, p := range all {
		_, err := io.WriteString(p.stdin, "go\n")
		must(t, err)
	}
	winner := map[int]string{}
	won := map[string]int{}
	for n, p := range all {
		for line := range strings.Lines(p.rest(t)) {
			var i int
			var uid string
			if _, err := fmt.Sscanf(line, "won %d %s", &i, &uid); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if winner[i] != "" {
				t.Errorf("claim %d was made by %s and p%d", i, winner[i], n)
			}
			winner[i] = fmt.Sprint("p", n)
			won[winner[i]]++
			c, err := open(t, dir).GetClaim(t.Context(), claimRef(i))
			if err != nil || c.Node.Name != winner[i] || c.Version.UID != uid {
				t.Errorf("claim %d: %+v %v, made by %s", i, c, err, winner[i])
			}
		}
	}
	if len(winner) != names {
		t.Errorf("%d of %d claims were made: %v", len(winner), names, won)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestKilledProcesses: processes that take and give addresses are killed again
// and again; nobody ever has what another has, no half object is left, and what
// was told to be there is.
func TestKilledProcesses(t *testing.T) {
	dir := t.TempDir()
	for round := range 6 {
		var all []*process
		for n := range 4 {
			all = append(all, start(t, dir, fmt.Sprintf("r%dp%d", round, n), "churn"))
		}
		for _, p := range all {
			p.ready(t)
			_, err := p.stdout.Peek(1) // it has something
			must(t, err)
		}
		time.Sleep(time.Duration(10+round*7) * time.Millisecond)
		for _, p := range all {
			must(t, p.cmd.Process.Kill())
		}
		has := map[string]string{} // claim and UID → who has it
		for n, p := range all {
			for line := range strings.Lines(p.rest(t)) {
				verb, object, _ := strings.Cut(line, " ")
				if verb == "has" {
					has[object] = fmt.Sprintf("r%dp%d", round, n)
				} else {
					delete(has, object) // whether it is gone nobody knows
				}
			}
		}
		s := open(t, dir)
		if left := leftovers(t, dir); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		holder := map[int]string{}
		for object, who := range has {
			var i int
			var uid string
			_, err := fmt.Sscanf(object, "%d %s", &i, &uid)
			must(t, err)
			if holder[i] != "" {
				t.Errorf("claim %d: %s and %s", i, holder[i], who)
			}
			holder[i] = who
			c, err := s.GetClaim(t.Context(), claimRef(i))
			if err != nil || c.Node.Name != who || c.Version.UID != uid {
				t.Errorf("claim %d of %s: %+v %v", i, who, c, err)
			}
		}
		// Every file is whole; the next round begins with none.
		claims, err := s.SpaceClaims(t.Context(), "default", everything())
		must(t, err)
		for _, c := range claims {
			must(t, s.DeleteClaim(t.Context(), c.Ref, c.Version))
		}
	}
}

// TestLockOfAnotherProcess is waited for, but not for longer than the caller
// waits, and goes with the process that has it.
func TestLockOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	p := start(t, dir, "p", "hold")
	p.ready(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := ipam.Claim{Ref: claimRef(1), State: ipam.Bound}
	_, err := s.CreateClaim(ctx, c)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), filepath.Join(dir, lockFolder, "default")) {
		t.Errorf("while another has the lock: %v", err)
	}
	if _, err := s.GetClaim(t.Context(), c.Ref); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("a read: %v", err)
	}
	other := c
	other.Ref.Space = "other"
	if _, err = s.CreateClaim(t.Context(), other); err != nil {
		t.Errorf("in another space: %v", err)
	}
	must(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
	if _, err = s.CreateClaim(t.Context(), c); err != nil {
		t.Errorf("after its end: %v", err)
	}
}
