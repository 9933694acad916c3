package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// untar returns the entries of an archive in their order.
func untar(t *testing.T, data []byte) []entry {
	t.Helper()
	var entries []entry
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(time.Unix(7, 0)) {
			t.Errorf("%s: uid %d, gid %d, time %v", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		entries = append(entries, entry{name: header.Name, mode: header.Mode, content: content, target: header.Linkname})
	}
}

// read finds a file of an archive.
func read(t *testing.T, entries []entry, name string) []byte {
	t.Helper()
	for _, e := range entries {
		if e.name == name {
			return e.content
		}
	}
	t.Fatalf("no %s in the archive", name)
	return nil
}

// follow returns the content of the blob that d points at, after checking it.
func follow(t *testing.T, entries []entry, d descriptor) []byte {
	t.Helper()
	content := read(t, entries, "blobs/"+strings.Replace(d.Digest, ":", "/", 1))
	if len(content) != d.Size || digestOf(content) != d.Digest {
		t.Errorf("blob %s: %d bytes with digest %s", d.Digest, len(content), digestOf(content))
	}
	return content
}

func decode[T any](t *testing.T, data []byte) T {
	t.Helper()
	var value T
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return value
}

func testImage() image {
	p := programs{daemon: []byte("daemon"), plugin: []byte("plugin"), controller: []byte("controller"), metactl: []byte("metactl")}
	return image{name: "localhost/meta-cni:dev", arch: "arm64", date: time.Unix(7, 0).UTC(), layers: layers(p)}
}

func TestArchive(t *testing.T) {
	data, err := testImage().archive()
	if err != nil {
		t.Fatal(err)
	}
	entries := untar(t, data)
	index := decode[manifest](t, read(t, entries, "index.json"))
	if len(index.Manifests) != 1 {
		t.Fatalf("%d manifests in the index, want 1", len(index.Manifests))
	}
	top := index.Manifests[0]
	wantAnnotations := map[string]string{annotationName: "localhost/meta-cni:dev", annotationRef: "dev"}
	if diff := cmp.Diff(wantAnnotations, top.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	m := decode[manifest](t, follow(t, entries, top))
	conf := decode[config](t, follow(t, entries, *m.Config))
	if diff := cmp.Diff([]string{"/opt/meta-cni/meta-cnid"}, conf.Config.Entrypoint); diff != "" {
		t.Error(diff)
	}
	if conf.Architecture != "arm64" || conf.OS != "linux" || len(conf.RootFS.DiffIDs) != len(m.Layers) {
		t.Errorf("config %+v for %d layers", conf, len(m.Layers))
	}
	// Nothing lies in the archive that nothing points at.
	if got, want := len(entries), 4+2+len(m.Layers); got != want {
		t.Errorf("%d entries, want %d", got, want)
	}
	if diff := cmp.Diff(wantFiles(), rootFiles(t, entries, m, conf)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func wantFiles() map[string]string {
	return map[string]string{
		"bin":                              "-> usr/bin",
		"etc/group":                        "644 root:x:0:\n",
		"etc/passwd":                       "644 root:x:0:0:root:/:/sbin/nologin\n",
		"lib":                              "-> usr/lib",
		"lib64":                            "-> usr/lib64",
		"opt/meta-cni/meta-cni":            "755 plugin",
		"opt/meta-cni/meta-cni-controller": "755 controller",
		"opt/meta-cni/metactl":             "755 metactl",
		"opt/meta-cni/meta-cnid":           "755 daemon",
		"sbin":                             "-> usr/sbin",
		"var/run":                          "-> /run",
	}
}

// rootFiles unpacks the layers as a runtime does: it checks each against its
// diff ID, and that a file's folder came before it.
func rootFiles(t *testing.T, entries []entry, m manifest, conf config) map[string]string {
	t.Helper()
	files, folders := map[string]string{}, map[string]bool{"./": true}
	for n, layer := range m.Layers {
		r, err := gzip.NewReader(bytes.NewReader(follow(t, entries, layer)))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := digestOf(plain); got != conf.RootFS.DiffIDs[n] {
			t.Errorf("layer %d has the diff ID %s, the config says %s", n, got, conf.RootFS.DiffIDs[n])
		}
		for _, e := range untar(t, plain) {
			if parent := filepath.Dir(strings.TrimSuffix(e.name, "/")) + "/"; !folders[parent] {
				t.Errorf("%s comes before its folder", e.name)
			}
			switch {
			case strings.HasSuffix(e.name, "/"):
				folders[e.name] = true
			case e.target != "":
				files[e.name] = "-> " + e.target
			default:
				files[e.name] = fmt.Sprintf("%o %s", e.mode, e.content)
			}
		}
	}
	return files
}

func TestArchiveRefusesNames(t *testing.T) {
	for _, name := range []string{"", "meta-cni", "meta-cni:dev", "localhost/meta-cni", "localhost:5000/meta-cni", "localhost/:dev", "localhost/meta-cni:"} {
		i := testImage()
		i.name = name
		if _, err := i.archive(); err == nil || !strings.Contains(err.Error(), "want host/name:tag") {
			t.Errorf("%q: error = %v", name, err)
		}
	}
}

func TestSourceDate(t *testing.T) {
	for in, want := range map[string]int64{"": 0, "0": 0, "1700000000": 1700000000} {
		got, err := sourceDate(in)
		if err != nil || got.Unix() != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"-1", "today"} {
		if _, err := sourceDate(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

// TestRealImage compiles the real programs twice: the archives are the same
// byte for byte, and no program needs a dynamic linker, because the image has
// none.
func TestRealImage(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "7")
	var archives [2][]byte
	for i := range archives {
		path := filepath.Join(t.TempDir(), "image.tar")
		if err := run(t.Context(), path, "amd64", "localhost/meta-cni:dev"); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds of the same sources differ")
	}
	entries := untar(t, archives[0])
	m := decode[manifest](t, follow(t, entries, decode[manifest](t, read(t, entries, "index.json")).Manifests[0]))
	conf := decode[config](t, follow(t, entries, *m.Config))
	files := rootFiles(t, entries, m, conf)
	for _, name := range []string{"opt/meta-cni/meta-cnid", "opt/meta-cni/meta-cni"} {
		content, ok := strings.CutPrefix(files[name], "755 ")
		if !ok {
			t.Errorf("%s is missing or has the wrong mode", name)
			continue
		}
		checkStatic(t, name, content)
	}
	t.Logf("archive: %d bytes", len(archives[0]))
}

func checkStatic(t *testing.T, name, content string) {
	t.Helper()
	file, err := elf.NewFile(strings.NewReader(content))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is linked dynamically (%v)", name, segment.Type)
		}
	}
	t.Logf("%s: %d bytes", name, len(content))
}
