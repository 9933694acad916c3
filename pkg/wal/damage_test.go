package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// image is the bytes of a log's only segment, without the zeros that follow,
// and the records in it.
type image struct {
	data    []byte
	records []string
	ends    []int64 // where each record's frame ends
}

func newImage(records ...string) image {
	img := image{records: records, data: fileHeader(segmentMagic, 1, 0)}
	for i, r := range records {
		buf := appendRecord(make([]byte, headerSize), []byte(r))
		img.data = append(img.data, seal(buf, uint64(i)+1, 1, int64(len(img.data)))...)
		img.ends = append(img.ends, int64(len(img.data)))
	}
	return img
}

// load is what a log with that only segment has; one in 200 is really opened.
func load(t *testing.T, data []byte, n int) (state, error) {
	t.Helper()
	var found segments
	err := found.parse(&segment{first: 1}, data, 1)
	if isZero(data) {
		err = nil // not begun
	}
	if n%200 == 0 {
		got, openErr := loadFile(t, data)
		if want := stateOf(Recovered{Records: found.records, Torn: found.torn}); (err == nil) != (openErr == nil) || err == nil && !cmp.Equal(want, got) {
			t.Errorf("read %v %v, opened %v %v", want, err, got, openErr)
		}
		return got, openErr
	}
	if err != nil {
		return state{}, corrupt("", err)
	}
	return stateOf(Recovered{Records: found.records, Torn: found.torn}), nil
}

// loadFile opens a folder with that segment.
func loadFile(t *testing.T, data []byte) (state, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, segmentName(1))
	must(t, os.WriteFile(path, data, 0o600))
	l, r, err := Open(Options{Dir: dir, Reserve: 4096, NoSync: true})
	if err != nil {
		after, readErr := os.ReadFile(path)
		must(t, readErr)
		if !bytes.Equal(after, data) {
			t.Errorf("Open failed (%v) and changed the file", err)
		}
		return state{}, err
	}
	// What was cut off stays away, and the log goes on from there.
	put(t, l, "next")
	must(t, l.Close())
	again := reopen(t, Options{Dir: dir, Reserve: 4096, NoSync: true})
	want := stateOf(r)
	want.Records, want.Torn = append(slices.Clone(want.Records), "next"), 0
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("after the repair: %s", diff)
	}
	return stateOf(r), nil
}

func padded(data []byte) []byte { return append(bytes.Clone(data), make([]byte, 2048)...) }

// TestChangedByte: whichever byte of a closed log changes, no synced record is
// lost without an error.
func TestChangedByte(t *testing.T) {
	for _, records := range [][]string{
		{"first", strings.Repeat("s", 700), "", "last"},
		{"zeros at the end", string(make([]byte, 1500))},
		{"zeros in the middle", "a" + string(make([]byte, 1500)) + "b"},
	} {
		changeEachByte(t, newImage(records...))
	}
}

func changeEachByte(t *testing.T, img image) {
	t.Helper()
	refused := 0
	for at := range img.data {
		for _, value := range []byte{0, 1, 0x80, 0xff, ^img.data[at]} {
			if value == img.data[at] {
				continue
			}
			data := padded(img.data)
			data[at] = value
			got, err := load(t, data, at*5+int(value)%5)
			switch {
			case errors.Is(err, ErrCorrupt):
				refused++
			case err != nil:
				t.Fatalf("byte %d := %#x: %v", at, value, err)
			case !slices.Equal(got.Records, img.records):
				t.Fatalf("byte %d := %#x: got %q, torn %d", at, value, got.Records, got.Torn)
			}
		}
	}
	if refused < len(img.data)*3 {
		t.Errorf("%d changes of %d bytes were seen", refused, len(img.data))
	}
}

// TestCutAtEachByte: a log that ends anywhere (in the file's end or in zeros)
// gives the records that were whole.
func TestCutAtEachByte(t *testing.T) {
	img := newImage("first", strings.Repeat("s", 700), "last")
	for at := range img.data {
		for name, data := range map[string][]byte{
			"end":   img.data[:at],
			"zeros": padded(img.data[:at]),
		} {
			if at > 0 && at < headerSize {
				continue // the first header lies in one sector
			}
			whole := 0
			for whole < len(img.ends) && img.ends[whole] <= int64(at) {
				whole++
			}
			got, err := load(t, data, at)
			if err != nil {
				t.Fatalf("%s from byte %d: %v", name, at, err)
			}
			// Only what follows the record may have been cut off.
			if n := len(got.Records); n < whole || n > whole+1 || !slices.Equal(got.Records, img.records[:n]) {
				t.Fatalf("%s from byte %d: %q", name, at, got.Records)
			}
		}
	}
}

// TestLostSectors: a power cut keeps any sectors of the last write.
func TestLostSectors(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range 300 {
		var records []string
		for range 1 + r.IntN(4) {
			size := r.IntN(3000)
			records = append(records, strings.Repeat(string(rune('a'+r.IntN(26))), size)+string(make([]byte, r.IntN(2)*r.IntN(2000))))
		}
		img := newImage(records...)
		n := len(records)
		start := int64(headerSize)
		if n > 1 {
			start = img.ends[n-2]
		}
		data := padded(img.data)
		lost := 0
		for at := start; at < img.ends[n-1]; {
			end := min((at/sector+1)*sector, img.ends[n-1])
			if r.IntN(3) == 0 && !isZero(data[at:end]) {
				clear(data[at:end])
				lost++
			}
			at = end
		}
		got, err := load(t, data, i)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		// Without the sector that has nothing but the trailer, the record is whole.
		if !slices.Equal(got.Records, records) && (lost == 0 || !slices.Equal(got.Records, records[:n-1])) {
			t.Fatalf("seed %d: %d sectors lost: %d records of %d", seed, lost, len(got.Records), n)
		}
	}
}

// TestDamagedFolder: what no crash explains is refused, with the file's name
// and the remedy.
func TestDamagedFolder(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		file   string
	}{
		{"a hole in the middle", func(dir string) error { return overwrite(dir, 4, 64, make([]byte, 32)) }, segmentName(4)},
		{"two frames swapped", func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, segmentName(4)))
			if err != nil {
				return err
			}
			return overwrite(dir, 4, 32, append(bytes.Clone(data[96:160]), data[32:96]...))
		}, segmentName(4)},
		{"a frame of an older segment", func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, segmentName(4)))
			if err != nil {
				return err
			}
			return overwrite(dir, 4, 160, data[32:96])
		}, segmentName(4)},
		{"no segment after the snapshot", func(dir string) error { return os.Remove(filepath.Join(dir, segmentName(4))) }, segmentName(4)},
		{"a segment under another name", func(dir string) error {
			return os.Rename(filepath.Join(dir, segmentName(4)), filepath.Join(dir, segmentName(5)))
		}, segmentName(5)},
		{"no snapshot", func(dir string) error { return os.Remove(filepath.Join(dir, snapshotName)) }, segmentName(4)},
		{"a changed snapshot", func(dir string) error { return flip(filepath.Join(dir, snapshotName), -1) }, snapshotName},
		{"a changed snapshot's header", func(dir string) error { return flip(filepath.Join(dir, snapshotName), 13) }, snapshotName},
		{"a short snapshot", func(dir string) error { return os.Truncate(filepath.Join(dir, snapshotName), 35) }, snapshotName},
		{"a future format", func(dir string) error {
			h := fileHeader(snapshotMagic, 3, 0)
			h[8] = 2
			return os.WriteFile(filepath.Join(dir, snapshotName), h, 0o600)
		}, snapshotName},
	} {
		o := Options{Dir: t.TempDir(), Reserve: 4096}
		l, _ := open(t, o)
		put(t, l, "a", "b", "c")
		compact(t, l, "snap")
		put(t, l, strings.Repeat("d", 20), strings.Repeat("e", 20))
		must(t, l.Close())
		must(t, c.damage(o.Dir))
		before := files(t, o.Dir)
		_, _, err := Open(o)
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), filepath.Join(o.Dir, c.file)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(before, files(t, o.Dir)); diff != "" {
			t.Errorf("%s: files changed: %s", c.name, diff)
		}
	}
}

// TestSegmentsInARow: a snapshot that could not be stored leaves several; only
// the last that was begun may be torn, and none may be missing.
func TestSegmentsInARow(t *testing.T) {
	first, second := newImage("a", "b"), newImage()
	second.data = append(fileHeader(segmentMagic, 3, 0), seal(appendRecord(make([]byte, headerSize), []byte("c")), 3, 1, headerSize)...)
	for _, c := range []struct {
		name  string
		files map[uint64][]byte
		want  state
		bad   string
	}{
		{"both whole", map[uint64][]byte{1: first.data, 3: second.data}, state{Records: []string{"a", "b", "c"}}, ""},
		{"the second is torn", map[uint64][]byte{1: first.data, 3: second.data[:68]}, state{Records: []string{"a", "b"}, Torn: 33}, ""},
		{"the second isn't begun", map[uint64][]byte{1: first.data[:70], 3: make([]byte, 999), 4: nil}, state{Records: []string{"a"}, Torn: 0}, ""},
		{"the first is torn after its records", map[uint64][]byte{1: append(bytes.Clone(first.data), frameHead(3)...), 3: second.data}, state{}, segmentName(3)},
		{"the first is short", map[uint64][]byte{1: first.data[:96], 3: second.data}, state{}, segmentName(3)},
		{"the first has no header's end", map[uint64][]byte{1: first.data[:20], 3: second.data}, state{}, segmentName(1)},
		{"an empty one comes late", map[uint64][]byte{1: first.data, 4: fileHeader(segmentMagic, 4, 0)}, state{}, segmentName(4)},
		{"the first is missing", map[uint64][]byte{3: second.data}, state{}, segmentName(3)},
	} {
		o := Options{Dir: t.TempDir(), Reserve: 4096}
		for n, data := range c.files {
			must(t, os.WriteFile(filepath.Join(o.Dir, segmentName(n)), data, 0o600))
		}
		l, r, err := Open(o)
		if c.bad != "" {
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		put(t, l, "next")
		compact(t, l, "all")
		must(t, l.Close())
		if diff := cmp.Diff(c.want, stateOf(r)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if n := len(files(t, o.Dir)); n != 3 {
			t.Errorf("%s: %v are left after a snapshot", c.name, files(t, o.Dir))
		}
	}
}

// frameHead is the begin of a frame whose rest is missing.
func frameHead(number uint64) []byte {
	return seal(appendRecord(make([]byte, headerSize), []byte("torn")), number, 1, 0)[:headerSize]
}

func overwrite(dir string, first uint64, at int64, data []byte) error {
	file, err := os.OpenFile(filepath.Join(dir, segmentName(first)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(data, at)
	return errors.Join(err, file.Close())
}

func flip(path string, at int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 1
	return os.WriteFile(path, data, 0o600)
}

func FuzzParseFrames(f *testing.F) {
	frame := seal(appendRecord(make([]byte, headerSize), []byte("record")), 1, 1, headerSize)
	f.Add(append(fileHeader(segmentMagic, 1, 0), frame...))
	f.Add(append(fileHeader(segmentMagic, 1, 0), frame[:40]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseFrames(data, 1)
		if err != nil {
			return
		}
		// What was read, written again, reads the same.
		buf := fileHeader(segmentMagic, 1, 0)
		for i, record := range c.records {
			buf = append(buf, seal(appendRecord(make([]byte, headerSize), record), uint64(i)+1, 1, int64(len(buf)))...)
		}
		again, err := parseFrames(buf, 1)
		if err != nil || fmt.Sprint(again.records) != fmt.Sprint(c.records) {
			t.Errorf("%q, written and read again: %q %v", c.records, again.records, err)
		}
	})
}
