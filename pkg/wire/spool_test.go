package wire

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testSpool(t *testing.T) Spool {
	t.Helper()
	return Spool{Dir: filepath.Join(t.TempDir(), "state", "spool")}
}

func put(t *testing.T, s Spool, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := s.Put(&Request{Version: 1, Command: "DEL", ContainerID: id, IfName: "eth0", Config: []byte("{bad")}); err != nil {
			t.Fatal(err)
		}
	}
}

func idsOf(entries []Entry) []string {
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Request.ContainerID)
	}
	return ids
}

func onlyName(t *testing.T, s Spool) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.Dir, "*"+spoolSuffix))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	return names[0]
}

func TestSpoolKeepsOrderAndForgets(t *testing.T) {
	s := testSpool(t)
	if entries, err := s.List(); err != nil || len(entries) != 0 {
		t.Fatal("a spool that was never used:", entries, err)
	}
	before := time.Now()
	put(t, s, "c", "a", "../../etc/passwd", "a")
	entries, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"c", "a", "../../etc/passwd", "a"}, idsOf(entries)); diff != "" {
		t.Error(diff)
	}
	if at := entries[0].Time; at.Before(before) || time.Since(at) < 0 {
		t.Error("time", at)
	}
	if string(entries[0].Request.Config) != "{bad" {
		t.Errorf("config %q", entries[0].Request.Config)
	}
	for range 2 { // twice: the daemon may have died between
		if err := s.Remove(entries[0]); err != nil {
			t.Fatal(err)
		}
	}
	left, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "../../etc/passwd", "a"}, idsOf(left)); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{s.Dir, filepath.Dir(s.Dir)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Error(path, info.Mode(), err)
		}
	}
}

func TestSpoolQuarantinesDamage(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for _, test := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"empty after a loss of power", func([]byte) []byte { return nil }},
		{"torn", func(b []byte) []byte { return b[:len(b)-7] }},
		{"zeroes", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"a bit", flip},
		{"longer", func(b []byte) []byte { return append(b, ' ') }},
		{"a later format", func(b []byte) []byte { return []byte(strings.Replace(string(b), "spool 1", "spool 2", 1)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testSpool(t)
			put(t, s, "bad")
			path := onlyName(t, s)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, test.damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			put(t, s, "good")
			entries, err := s.List()
			if diff := cmp.Diff([]string{"good"}, idsOf(entries)); diff != "" {
				t.Error(diff)
			}
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Path != path {
				t.Fatalf("got %v", err)
			}
			if filepath.Dir(corrupt.MovedTo) != filepath.Join(filepath.Dir(s.Dir), "quarantine") {
				t.Error("moved to", corrupt.MovedTo)
			}
			if _, err := os.Stat(corrupt.MovedTo); err != nil {
				t.Error(err)
			}
			if _, err := s.List(); err != nil {
				t.Error("reported again:", err)
			}
		})
	}
}

func TestSpoolSkipsWhatIsNotWhole(t *testing.T) {
	s := testSpool(t)
	put(t, s, "a")
	young, old := filepath.Join(s.Dir, spoolTemp+"1"+spoolSuffix), filepath.Join(s.Dir, spoolTemp+"2"+spoolSuffix)
	for _, path := range []string{young, old} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(old, before, before); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List()
	if err != nil || len(entries) != 1 {
		t.Error(entries, err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("a plugin may be writing it:", err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Error("what a killed plugin left stays:", err)
	}
}

func TestSpoolRefusesAFolderThatIsNotItsOwn(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(dir string) error
	}{
		{"symbolic link", func(dir string) error {
			elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
			return errors.Join(os.Mkdir(elsewhere, 0o700), os.Symlink(elsewhere, dir))
		}},
		{"writable by others", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777))
		}},
		{"a file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Spool{Dir: filepath.Join(t.TempDir(), "spool")}
			if err := test.prepare(s.Dir); err != nil {
				t.Fatal(err)
			}
			err := s.Put(&Request{Command: "DEL"})
			if err == nil || !strings.Contains(err.Error(), s.Dir) {
				t.Errorf("got %v, want an error that names %s", err, s.Dir)
			}
		})
	}
}

func TestSpoolEntryThatIsALinkIsNotRead(t *testing.T) {
	s := testSpool(t)
	put(t, s, "a")
	path := onlyName(t, s)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(os.Rename(path, outside), os.Symlink(outside, path)); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List()
	var corrupt *CorruptError
	if len(entries) != 0 || !errors.As(err, &corrupt) {
		t.Error(entries, err)
	}
}

func FuzzParseSpool(f *testing.F) {
	good, err := spoolContent(spooled{Request: &Request{Command: "DEL", ContainerID: "a"}, BootID: "b", Uptime: 7})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 3, byte(1))
	f.Add([]byte(spoolMagic), 0, byte(0))
	f.Fuzz(func(t *testing.T, content []byte, at int, xor byte) {
		req, err := parseSpool(content)
		if err != nil {
			return
		}
		if _, err := spoolContent(req); err != nil && !errors.Is(err, ErrFrameTooLarge) {
			t.Fatal("what was read cannot be written:", err)
		}
		if xor == 0 {
			return
		}
		damaged := append([]byte(nil), content...)
		damaged[uint(at)%uint(len(damaged))] ^= xor
		if _, err := parseSpool(damaged); err == nil {
			t.Fatalf("damage at %d was not seen", uint(at)%uint(len(damaged)))
		}
	})
}

func BenchmarkSpoolPut(b *testing.B) {
	s := Spool{Dir: filepath.Join(b.TempDir(), "spool")}
	for b.Loop() {
		if err := s.Put(&Request{Command: "DEL", ContainerID: "a", Config: make([]byte, 2048)}); err != nil {
			b.Fatal(err)
		}
	}
}

// An entry says when it was put there by clocks that don't jump.
func TestSpoolStamps(t *testing.T) {
	s := testSpool(t)
	before, err := Uptime()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a")
	after, err := Uptime()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.List()
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	if e := entries[0]; e.BootID != strings.TrimSpace(string(boot)) || e.Uptime < before || e.Uptime > after {
		t.Errorf("%q, %v; want %q, %v to %v", e.BootID, e.Uptime, boot, before, after)
	}
}

// Entries of the first form have no stamp; the first form's reader, which
// decoded a Request alone, reads the new ones.
func TestSpoolFormsAreCompatible(t *testing.T) {
	s := testSpool(t)
	put(t, s, "new")
	content, err := os.ReadFile(onlyName(t, s))
	if err != nil {
		t.Fatal(err)
	}
	_, payload, _ := strings.Cut(string(content), "\n")
	old := new(Request)
	if err := json.Unmarshal([]byte(payload), old); err != nil || old.ContainerID != "new" || string(old.Config) != "{bad" {
		t.Errorf("%+v, %v", old, err)
	}
	payload = `{"version":1,"plugin":"","command":"DEL","containerID":"old"}`
	name := filepath.Join(s.Dir, "00000000000000000001-0-0"+spoolSuffix)
	if err := os.WriteFile(name, []byte(spoolMagic+checksum([]byte(payload))+"\n"+payload), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List()
	if err != nil || len(entries) != 2 {
		t.Fatal(entries, err)
	}
	if e := entries[0]; e.Request.ContainerID != "old" || e.BootID != "" || e.Uptime != 0 {
		t.Errorf("%+v", e)
	}
}
