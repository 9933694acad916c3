package dir

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// TestDamagedFile is an error in everything that would need it, with its name
// and the remedy; it is never taken for a free address.
func TestDamagedFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(data []byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"cut short", func(data []byte) []byte { return data[:len(data)/2] }},
		{"zeros", func(data []byte) []byte { return make([]byte, len(data)) }},
		{"no JSON", func([]byte) []byte { return []byte("hello") }},
		{"a future format", func(data []byte) []byte { return bytes.Replace(data, []byte(`"format": 1`), []byte(`"format": 2`), 1) }},
		{"a copy under another name", func(data []byte) []byte { return bytes.ReplaceAll(data, []byte("10.0.0.1"), []byte("10.0.0.2")) }},
		{"an unknown key", func(data []byte) []byte { return bytes.Replace(data, []byte(`"state"`), []byte(`"stat"`), 1) }},
		{"no UID", func(data []byte) []byte { return bytes.Replace(data, []byte(`"uid"`), []byte(`"pool"`), 1) }},
		{"no version", func(data []byte) []byte {
			return bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": 0`), 1)
		}},
		{"two objects", func(data []byte) []byte { return append(data, data...) }},
	} {
		s := open(t, t.TempDir())
		made, err := s.CreateClaim(t.Context(), ipam.Claim{Ref: claimRef(1), State: ipam.Bound})
		must(t, err)
		path := filepath.Join(s.dir, "claims/default/10.0.0.1.json")
		data, err := os.ReadFile(path)
		must(t, err)
		damaged := c.damage(data)
		if bytes.Equal(damaged, data) {
			t.Fatalf("%s: nothing was damaged", c.name)
		}
		must(t, os.WriteFile(path, damaged, 0o600))
		for what, err := range map[string]error{
			"Get":    second(s.GetClaim(t.Context(), made.Ref)),
			"Update": second(s.UpdateClaim(t.Context(), made)),
			"Delete": s.DeleteClaim(t.Context(), made.Ref, made.Version),
			"Space":  second(s.SpaceClaims(t.Context(), "default", everything())),
			"Node":   second(s.NodeClaims(t.Context(), "n1")),
			"Kept":   second(s.KeptClaims(t.Context(), ipam.Keeper{Kind: ipam.KeepPod})),
		} {
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore it") {
				t.Errorf("%s: %s: %v", c.name, what, err)
			}
		}
		if _, err := s.CreateClaim(t.Context(), made); !errors.Is(err, ipam.ErrExists) {
			t.Errorf("%s: Create: %v", c.name, err)
		}
		if taken, err := s.Taken(t.Context(), "default", everything()); err != nil || !taken[made.Ref.Addr] {
			t.Errorf("%s: taken %v %v", c.name, taken, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, damaged) {
			t.Errorf("%s: the file was changed", c.name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestStrangersFiles are left alone: an editor's copy, a folder, temporary
// files that aren't the store's.
func TestStrangersFiles(t *testing.T) {
	s := open(t, t.TempDir())
	made, err := s.CreateClaim(t.Context(), ipam.Claim{Ref: claimRef(1), State: ipam.Bound})
	must(t, err)
	for _, path := range []string{"claims/default/.10.0.0.1.json.swp", "claims/default/10.0.0.1.json~", "claims/default/10.0.0.01.json", "claims/default/x.json", "tmp/README"} {
		must(t, os.WriteFile(filepath.Join(s.dir, path), []byte("?"), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(s.dir, "tmp/default.X"), []byte("left by a kill"), 0o600))
	s = open(t, s.dir)
	claims, err := s.SpaceClaims(t.Context(), "default", everything())
	if err != nil || !cmp.Equal(claims, []ipam.Claim{made}, cmp.Comparer(func(a, b ipam.Claim) bool { return a == b })) {
		t.Errorf("%v %v", claims, err)
	}
	if left := leftovers(t, s.dir); len(left) != 1 || left[0].Name() != "README" {
		t.Errorf("left: %v", left)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a folder that others may write to: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := Open(t.Context(), file); err == nil {
		t.Error("a file was opened as a folder")
	}
	deep := filepath.Join(t.TempDir(), "a", "b")
	open(t, deep)
	info, err := os.Stat(deep)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
}

// TestFullDisk: what can't be written leaves what was there and no litter; a
// deletion needs no room.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := os.Getenv("IPAM_DIR_SMALL")
	if dir == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), "IPAM_DIR_SMALL="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS: TestFullDisk")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"))
	s := open(t, filepath.Join(dir, "ipam"))
	made, err := s.CreateClaim(t.Context(), ipam.Claim{Ref: claimRef(1), State: ipam.Bound})
	must(t, err)
	gone, err := s.CreateClaim(t.Context(), ipam.Claim{Ref: claimRef(2), State: ipam.Bound})
	must(t, err)
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	// What a full file system refuses first differs: a name or the content.
	changed := made
	changed.State = ipam.Cooling
	for what, err := range map[string]error{
		"Create": second(s.CreateClaim(t.Context(), ipam.Claim{Ref: claimRef(3), State: ipam.Bound})),
		"Update": second(s.UpdateClaim(t.Context(), changed)),
		"Space":  second(s.Space(t.Context(), ipam.Space{Name: "default", Grid: grid()})),
	} {
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "free space") {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, s.DeleteClaim(t.Context(), gone.Ref, gone.Version))
	if got, err := s.GetClaim(t.Context(), made.Ref); err != nil || got != made {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := s.GetClaim(t.Context(), claimRef(3)); !errors.Is(err, ipam.ErrNotFound) {
		t.Error(err)
	}
	if left := leftovers(t, s.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	must(t, os.Remove(filler))
	if _, err := s.UpdateClaim(t.Context(), changed); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func BenchmarkStore(b *testing.B) {
	s := open(b, b.TempDir())
	for n := 0; b.Loop(); n++ {
		c, err := s.CreateClaim(b.Context(), ipam.Claim{Ref: claimRef(n % 60000), State: ipam.Bound})
		must(b, err)
		c, err = s.UpdateClaim(b.Context(), c)
		must(b, err)
		must(b, s.DeleteClaim(b.Context(), c.Ref, c.Version))
	}
}
