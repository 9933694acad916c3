package wal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// child is another process: it opens the log, says so, and goes when its
// standard input ends; or it is the one that the crash test kills.
func child() {
	if os.Getenv("WAL_CHILD_WORK") != "" {
		crashChild(os.Getenv("WAL_CHILD_DIR"))
		return
	}
	l, _, err := Open(Options{Dir: os.Getenv("WAL_CHILD_DIR")})
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = l.Close()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, o Options) (*Log, Recovered) {
	t.Helper()
	l, r, err := Open(o)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l, r
}

func put(t testing.TB, l *Log, records ...string) {
	t.Helper()
	for _, r := range records {
		ticket, err := l.Append([]byte(r))
		must(t, err)
		must(t, ticket.Wait())
	}
}

// state is a snapshot and what follows, as the tests write them.
type state struct {
	Snapshot string
	Records  []string
	Torn     int
}

func stateOf(r Recovered) state {
	s := state{Snapshot: string(r.Snapshot), Torn: r.Torn}
	for _, record := range r.Records {
		s.Records = append(s.Records, string(record))
	}
	return s
}

// reopen is what a new process finds.
func reopen(t testing.TB, o Options) state {
	t.Helper()
	l, r := open(t, o)
	must(t, l.Close())
	return stateOf(r)
}

func compact(t testing.TB, l *Log, snapshot string) {
	t.Helper()
	must(t, l.Compact([]byte(snapshot)))
	settle(l)
}

// settle awaits the snapshot under way.
func settle(l *Log) {
	for l.Compacting() {
		time.Sleep(100 * time.Microsecond)
	}
}

func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestRecordsComeBackInOrder(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "a", "log")}
	long := strings.Repeat("x", 3*maxBatch)
	zeros := string(make([]byte, 5000))
	for _, step := range []struct {
		name  string
		do    func(l *Log)
		want  state
		files []string
	}{
		{"a new log is empty", func(*Log) {}, state{}, []string{"0000000000000001.log", "lock"}},
		{"records", func(l *Log) { put(t, l, "a", "", long, zeros) }, state{Records: []string{"a", "", long, zeros}}, nil},
		{"after a restart", func(l *Log) { put(t, l, "b") }, state{Records: []string{"a", "", long, zeros, "b"}}, nil},
		{"a snapshot stands for them", func(l *Log) { compact(t, l, "snap") }, state{Snapshot: "snap"}, []string{"0000000000000006.log", "lock", "snapshot"}},
		{"records after it", func(l *Log) { put(t, l, "c", "d") }, state{Snapshot: "snap", Records: []string{"c", "d"}}, nil},
		{"two snapshots, records between", func(l *Log) {
			compact(t, l, "snap2")
			put(t, l, "e")
			compact(t, l, "snap3")
			put(t, l, "f")
		}, state{Snapshot: "snap3", Records: []string{"f"}}, []string{"0000000000000009.log", "lock", "snapshot"}},
		{"a snapshot without new records", func(l *Log) { compact(t, l, "g"); compact(t, l, "h") }, state{Snapshot: "h"}, nil},
		{"an empty snapshot is one", func(l *Log) { compact(t, l, "") }, state{}, []string{"000000000000000a.log", "lock", "snapshot"}},
	} {
		l, _ := open(t, o)
		step.do(l)
		must(t, l.Close())
		if diff := cmp.Diff(step.want, reopen(t, o)); diff != "" {
			t.Fatalf("%s: %s", step.name, diff)
		}
		if step.files != nil {
			if diff := cmp.Diff(step.files, files(t, o.Dir)); diff != "" {
				t.Fatalf("%s: %s", step.name, diff)
			}
		}
	}
	info, err := os.Stat(o.Dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestAnEmptySnapshotIsNotNone(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	l, r := open(t, o)
	if r.Snapshot != nil {
		t.Errorf("a new log has snapshot %q", r.Snapshot)
	}
	compact(t, l, "")
	must(t, l.Close())
	if _, r = open(t, o); r.Snapshot == nil {
		t.Error("the empty snapshot came back as none")
	}
}

// TestSnapshotStandsForOrderedRecords: also for those that are not on the disk
// when Compact is called, and never for those ordered after it.
func TestSnapshotStandsForOrderedRecords(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	l, _ := open(t, o)
	var last *Ticket
	for i := range 100 {
		var err error
		last, err = l.Append([]byte{byte(i)})
		must(t, err)
	}
	must(t, l.Compact([]byte("hundred")))
	if err := l.Compact([]byte("again")); err != nil && !errors.Is(err, ErrCompacting) {
		t.Errorf("second Compact: %v", err)
	}
	after, err := l.Append([]byte("after"))
	must(t, err)
	must(t, last.Wait())
	must(t, after.Wait())
	must(t, l.Close())
	if diff := cmp.Diff(state{Snapshot: "hundred", Records: []string{"after"}}, reopen(t, o)); diff != "" {
		t.Error(diff)
	}
}

func TestSizeCountsWhatTheSnapshotLacks(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	l, _ := open(t, o)
	put(t, l, "12345", "")
	if got := l.Size(); got != 5+2*lengthSize {
		t.Errorf("size %d", got)
	}
	must(t, l.Close())
	l, _ = open(t, o)
	if got := l.Size(); got != 5+2*lengthSize {
		t.Errorf("after a restart: size %d", got)
	}
	compact(t, l, "s")
	if got := l.Size(); got != 0 {
		t.Errorf("after the snapshot: size %d", got)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WAL_CHILD_DIR="+o.Dir)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "open\n" {
		t.Errorf("the first process: %q %v", line, err)
	}
	_, _, err = Open(o)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), filepath.Join(o.Dir, "lock")) {
		t.Errorf("the second process: %v", err)
	}
	must(t, stdin.Close())
	must(t, cmd.Wait())
	l, _ := open(t, o)
	if _, _, err := Open(o); !errors.Is(err, ErrInUse) {
		t.Errorf("twice in one process: %v", err)
	}
	put(t, l, "a")
}

func TestClosed(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	l, _ := open(t, o)
	ticket, err := l.Append([]byte("a"))
	must(t, err)
	must(t, l.Close())
	must(t, ticket.Wait())
	must(t, l.Close())
	if _, err := l.Append(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Append: %v", err)
	}
	if err := l.Compact(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Compact: %v", err)
	}
	if _, err := l.Append(make([]byte, MaxRecord+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too long: %v", err)
	}
}

// TestConcurrent: each of many callers finds its records in its order, and a
// snapshot under their common lock loses none.
func TestConcurrent(t *testing.T) {
	const callers, each = 100, 30
	o := Options{Dir: t.TempDir(), NoSync: true}
	l, _ := open(t, o)
	var mu sync.Mutex
	var ordered []string // the state that a snapshot is made of
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := range each {
				record := fmt.Sprintf("%d.%d", c, i)
				mu.Lock()
				ticket, err := l.Append([]byte(record))
				ordered = append(ordered, record)
				if err == nil && len(ordered)%500 == 0 {
					if err := l.Compact([]byte(strings.Join(ordered, " "))); err != nil && !errors.Is(err, ErrCompacting) {
						t.Error(err)
					}
				}
				mu.Unlock()
				if err == nil {
					err = ticket.Wait()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	must(t, l.Close())
	found := reopen(t, o)
	got := append(strings.Fields(found.Snapshot), found.Records...)
	if diff := cmp.Diff(ordered, got); diff != "" {
		t.Error(diff)
	}
	if found.Snapshot == "" {
		t.Error("no snapshot was stored")
	}
}

// TestWritesJoin: records that wait for the disk go there together.
func TestWritesJoin(t *testing.T) {
	l, _ := open(t, Options{Dir: t.TempDir()})
	var tickets []*Ticket
	l.mu.Lock() // the writer can take nothing
	for range 1000 {
		l.mu.Unlock()
		ticket, err := l.Append(bytes.Repeat([]byte("x"), 100))
		must(t, err)
		tickets = append(tickets, ticket)
		l.mu.Lock()
	}
	l.mu.Unlock()
	writes := map[*Ticket]bool{}
	for _, ticket := range tickets {
		must(t, ticket.Wait())
		writes[ticket] = true
	}
	if len(writes) > 200 {
		t.Errorf("%d writes for 1000 records that nobody waited for", len(writes))
	}
	if l.active.used != l.active.end {
		t.Errorf("%d bytes are set aside, %d are written", l.active.used, l.active.end)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, noSync := range []bool{false, true} {
		name := map[bool]string{false: "sync", true: "nosync"}[noSync]
		record := bytes.Repeat([]byte("r"), 200)
		one := func(b *testing.B, l *Log) {
			ticket, err := l.Append(record)
			if err == nil {
				err = ticket.Wait()
			}
			if err != nil {
				b.Error(err)
			}
		}
		b.Run("serial/"+name, func(b *testing.B) {
			l, _ := open(b, Options{Dir: b.TempDir(), NoSync: noSync})
			for b.Loop() {
				one(b, l)
			}
		})
		b.Run("parallel/"+name, func(b *testing.B) {
			l, _ := open(b, Options{Dir: b.TempDir(), NoSync: noSync})
			b.SetParallelism(50)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					one(b, l)
				}
			})
		})
	}
}
