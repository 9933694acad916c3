package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

func open(t testing.TB, dir string) (*Journal, []Damaged) {
	t.Helper()
	j, damaged, err := Open(Options{
		Dir:        filepath.Join(dir, "attachments"),
		Quarantine: filepath.Join(dir, "quarantine"),
		BootID:     "boot-1",
		Log:        slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, damaged
}

func samplePlan(id string) *attach.Plan {
	return &attach.Plan{
		Key:   attach.Key{ContainerID: id, IfName: "eth0"},
		Netns: "/run/netns/x",
		Pod:   attach.Pod{Namespace: "ns", Name: "pod", UID: "uid"},
		Delegates: []attach.Delegate{
			{Network: "primary", Conf: []byte(`{"a":1}`), IfName: "eth0", Primary: true},
			{Network: "ns/net", Conf: []byte(`{"b":2}`), IfName: "net1"},
		},
	}
}

// steps walks a set through its whole life; every prefix of it is a crash.
func steps() []func(*Set) error {
	return []func(*Set) error{
		func(s *Set) error { return s.Process(0, &Process{Group: 10, StartTime: 7}) },
		func(s *Set) error { return s.Added(0, json.RawMessage(`{"ips":[]}`)) },
		func(s *Set) error { return s.Process(1, nil) },
		func(s *Set) error { return s.Routes(json.RawMessage(`["default"]`)) },
		func(s *Set) error { return s.Commit([]attach.Attachment{{Delegate: 0, Result: json.RawMessage(`{}`)}}) },
		func(s *Set) error { return s.Delete("DEL") },
		func(s *Set) error { return s.Restored() },
		func(s *Set) error { return s.Deleted(1) },
		func(s *Set) error { return s.Failed(0, errors.New("busy")) },
	}
}

func TestReopenAfterEachStep(t *testing.T) {
	for n := range len(steps()) + 1 {
		dir := t.TempDir()
		j, _ := open(t, dir)
		s, err := j.Begin(samplePlan("c1"), Namespace{Dev: 4, Inode: 5})
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range steps()[:n] {
			if err := step(s); err != nil {
				t.Fatal(err)
			}
		}
		want := s.State()
		again, damaged := open(t, dir)
		if len(damaged) != 0 {
			t.Fatalf("after %d steps: damaged: %v", n, damaged)
		}
		got, ok := again.Get(samplePlan("c1").Key)
		if !ok {
			t.Fatalf("after %d steps: the set is gone", n)
		}
		if diff := cmp.Diff(want, got.State(), cmpopts.EquateComparable()); diff != "" {
			t.Errorf("after %d steps (-want +got):\n%s", n, diff)
		}
	}
}

func TestPendingIsInReverse(t *testing.T) {
	j, _ := open(t, t.TempDir())
	s, err := j.Begin(samplePlan("c1"), Namespace{})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps()[:6] {
		if err := step(s); err != nil {
			t.Fatal(err)
		}
	}
	st := s.State()
	if diff := cmp.Diff([]int{1, 0}, st.Pending()); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	if err := s.Deleted(1); err != nil {
		t.Fatal(err)
	}
	st = s.State()
	if diff := cmp.Diff([]int{0}, st.Pending()); diff != "" {
		t.Errorf("pending after one DEL (-want +got):\n%s", diff)
	}
}

func TestBeginTwice(t *testing.T) {
	j, _ := open(t, t.TempDir())
	if _, err := j.Begin(samplePlan("c1"), Namespace{}); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Begin(samplePlan("c1"), Namespace{}); !errors.Is(err, ErrExists) {
		t.Errorf("second begin: %v, want ErrExists", err)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	s, err := j.Begin(samplePlan("c1"), Namespace{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "attachments"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, ok := j.Get(samplePlan("c1").Key); ok {
		t.Error("the set is still known")
	}
}

// TestDamage flips, cuts and empties a file: it is never ignored, never taken
// for another state, and its key and, where the plan survives, its plan are
// known.
func TestDamage(t *testing.T) {
	whole := committedFile(t)
	plan := samplePlan("c1")
	firstLine := bytes.IndexByte(whole, '\n')
	for name, tc := range map[string]struct {
		damage   func([]byte) []byte
		salvaged bool
	}{
		"empty":             {func([]byte) []byte { return nil }, false},
		"zeros":             {func(b []byte) []byte { return make([]byte, len(b)) }, false},
		"half of the plan":  {func(b []byte) []byte { return b[:firstLine/2] }, false},
		"random":            {func([]byte) []byte { return []byte("\x13garbage\n\x00\xff") }, false},
		"bit in the plan":   {func(b []byte) []byte { b[firstLine/2] ^= 1; return b }, false},
		"bit in a step":     {func(b []byte) []byte { b[firstLine+30] ^= 1; return b }, true},
		"line feed changed": {func(b []byte) []byte { b[firstLine] = ' '; return b }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, plan.Key, tc.damage(bytes.Clone(whole)))
			j, damaged := open(t, dir)
			if len(damaged) != 1 {
				t.Fatalf("damaged = %v, want one", damaged)
			}
			d := damaged[0]
			if d.Key != plan.Key {
				t.Errorf("key = %v", d.Key)
			}
			if (d.Begin != nil) != tc.salvaged {
				t.Errorf("plan salvaged = %v, want %v", d.Begin != nil, tc.salvaged)
			}
			if len(j.Sets()) != 0 {
				t.Error("a damaged set is in the index")
			}
			if _, again := open(t, dir); len(again) != 1 {
				t.Errorf("a daemon that was killed before it did anything finds %d damaged files again, want 1", len(again))
			}
			kept, err := j.Quarantine(d)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(kept); err != nil {
				t.Errorf("quarantined file: %v", err)
			}
			if _, again := open(t, dir); len(again) != 0 {
				t.Errorf("%d damaged files after the quarantine", len(again))
			}
		})
	}
}

// TestRestore: the recovered set takes the damaged file's place, committed,
// and is read back so.
func TestRestore(t *testing.T) {
	dir := t.TempDir()
	plan := samplePlan("c1")
	writeFile(t, dir, plan.Key, []byte("damage\n"))
	j, damaged := open(t, dir)
	attachments := []attach.Attachment{{Delegate: 1, Result: json.RawMessage(`{}`)}}
	s, err := j.Restore(damaged[0], Begin{Plan: *plan, NetnsInode: 7}, attachments)
	if err != nil {
		t.Fatal(err)
	}
	again, damaged := open(t, dir)
	got, ok := again.Get(plan.Key)
	if !ok || len(damaged) != 0 {
		t.Fatalf("known: %v, damaged: %v", ok, damaged)
	}
	if diff := cmp.Diff(s.State(), got.State()); diff != "" {
		t.Errorf("-restored +read back:\n%s", diff)
	}
	st := got.State()
	if st.Phase != Committed || !st.Recovered || len(st.Pending()) != 2 {
		t.Errorf("phase %s, recovered %v, pending %v", st.Phase, st.Recovered, st.Pending())
	}
	if kept, err := filepath.Glob(filepath.Join(dir, "quarantine", "*")); err != nil || len(kept) != 1 {
		t.Errorf("in quarantine: %v, %v", kept, err)
	}
}

// TestContainerOnly: a journal for one container leaves the files of others
// alone, also those that are being written.
func TestContainerOnly(t *testing.T) {
	dir := t.TempDir()
	other, _ := open(t, dir)
	if _, err := other.Begin(samplePlan("other"), Namespace{}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, attach.Key{ContainerID: "other", IfName: "eth1"}, []byte("damage\n"))
	temp := filepath.Join(dir, "attachments", "other@eth2.journal.tmp")
	if err := os.WriteFile(temp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j, damaged, err := Open(Options{
		Dir: filepath.Join(dir, "attachments"), Quarantine: filepath.Join(dir, "quarantine"),
		BootID: "boot-1", Container: "mine", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if len(j.Sets()) != 0 || len(damaged) != 0 {
		t.Errorf("sets %d, damaged %v", len(j.Sets()), damaged)
	}
	if _, err := os.Stat(temp); err != nil {
		t.Errorf("another process' file: %v", err)
	}
}

// TestTornTail: a last line without its line feed was never synced, so what it
// says never happened.
func TestTornTail(t *testing.T) {
	whole := bytes.TrimRight(committedFile(t), "\x00")
	dir := t.TempDir()
	writeFile(t, dir, samplePlan("c1").Key, whole[:len(whole)-3])
	j, damaged := open(t, dir)
	if len(damaged) != 0 {
		t.Fatalf("damaged: %v", damaged)
	}
	s, _ := j.Get(samplePlan("c1").Key)
	if got := s.State().Phase; got != Begun {
		t.Errorf("phase = %s, want %s", got, Begun)
	}
	if err := s.Delete("undo"); err != nil {
		t.Fatal(err)
	}
	again, damaged := open(t, dir)
	if len(damaged) != 0 {
		t.Fatalf("damaged after writing on: %v", damaged)
	}
	s, _ = again.Get(samplePlan("c1").Key)
	if got := s.State().Phase; got != Deleting {
		t.Errorf("phase = %s, want %s", got, Deleting)
	}
}

func committedFile(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	j, _ := open(t, dir)
	s, err := j.Begin(samplePlan("c1"), Namespace{})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps()[:5] {
		if err := step(s); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "attachments", fileName(s.Key())))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, dir string, key attach.Key, data []byte) {
	t.Helper()
	folder := filepath.Join(dir, "attachments")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, fileName(key)), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLinkIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc", filepath.Join(dir, "attachments")); err != nil {
		t.Fatal(err)
	}
	_, _, err := Open(Options{Dir: filepath.Join(dir, "attachments"), Quarantine: filepath.Join(dir, "q"), Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Error("a folder that is a link was accepted")
	}
}

// TestFullDisk: with no room, an ADD fails before anything is touched, and a
// set that was begun before can still be walked to its end.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatalf("mount tmpfs (the test needs root): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	j, _ := open(t, dir)
	s, err := j.Begin(samplePlan("c1"), Namespace{})
	if err != nil {
		t.Fatal(err)
	}
	fillDisk(t, dir)
	if _, err := j.Begin(samplePlan("c2"), Namespace{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("begin on a full disk: %v, want ENOSPC", err)
	}
	if len(j.Sets()) != 1 {
		t.Errorf("%d sets, want 1", len(j.Sets()))
	}
	for _, step := range steps() {
		if err := step(s); err != nil {
			t.Errorf("on a full disk: %v", err)
		}
	}
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
}

func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
}

// TestReplayNeverInvents: any prefix of a valid file's records replays to a
// state that an uninterrupted writer passed through.
func TestReplayNeverInvents(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		data := bytes.TrimRight(committedFileRapid(rt), "\x00")
		cut := rapid.IntRange(0, len(data)).Draw(rt, "cut")
		records, _, err := decode(data[:cut])
		if err != nil {
			rt.Fatalf("a cut file is torn, not corrupt: %v", err)
		}
		if len(records) == 0 {
			return
		}
		if _, err := replay(records); err != nil {
			rt.Fatal(err)
		}
	})
}

func committedFileRapid(rt *rapid.T) []byte {
	var data []byte
	add := func(r record) {
		line, err := encode(r)
		if err != nil {
			rt.Fatal(err)
		}
		data = append(data, line...)
	}
	add(record{Kind: KindBegin, Begin: &Begin{Format: Format, Plan: *samplePlan("c1")}})
	kinds := []Kind{KindProcess, KindAdded, KindRoutes, KindRestored, KindCommit, KindDelete, KindDeleted, KindFailed}
	for range rapid.IntRange(0, 12).Draw(rt, "records") {
		add(record{
			Kind:     rapid.SampledFrom(kinds).Draw(rt, "kind"),
			Delegate: rapid.IntRange(0, 1).Draw(rt, "delegate"),
			Message:  rapid.String().Draw(rt, "message"),
		})
	}
	return data
}

// FuzzDecode: decoding never panics, and what it accepts encodes to the same
// bytes.
func FuzzDecode(f *testing.F) {
	line, err := encode(record{Kind: KindBegin, Begin: &Begin{Format: Format, Plan: *samplePlan("c1")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add(append(bytes.Clone(line), 0, 0, 0))
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, end, err := decode(data)
		if end > len(data) {
			t.Fatalf("end %d is past %d", end, len(data))
		}
		if err == nil && len(records) > 0 {
			_, _ = replay(records)
		}
		for _, r := range records {
			line, err := encode(r)
			if err != nil {
				t.Fatal(err)
			}
			back, err := decodeLine(bytes.TrimSuffix(line, []byte("\n")))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, back, cmpopts.EquateEmpty(), cmpopts.EquateComparable(attach.DefaultRoute{})); diff != "" {
				t.Fatalf("encode and decode (-want +got):\n%s", diff)
			}
		}
	})
}

// BenchmarkAdd is the journal's share of an ADD with three delegates.
func BenchmarkAdd(b *testing.B) {
	dir := b.TempDir()
	j, _ := open(b, dir)
	for b.Loop() {
		s, err := j.Begin(samplePlan("c1"), Namespace{})
		if err != nil {
			b.Fatal(err)
		}
		for _, step := range steps()[:5] {
			if err := step(s); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}
