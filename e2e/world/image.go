package world

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// image is a container image with busybox as its only content.
type image struct {
	ref        string
	entrypoint []string
}

// baseImages are what pods of the test bed run; busybox is their pause too.
func baseImages() []image {
	return []image{
		{ref: "localhost/pause:1", entrypoint: []string{"/bin/busybox", "tail", "-f", "/dev/null"}},
		{ref: "localhost/busybox:1", entrypoint: []string{"/bin/sh"}},
	}
}

// applets are the names under which busybox is linked in the images.
func applets() []string {
	return []string{
		"sh", "cat", "cut", "echo", "env", "grep", "head", "hostname", "ip", "ls", "mkdir", "nc", "ping", "ping6",
		"sed", "sleep", "tail", "test", "true", "false", "udhcpc", "wc", "wget",
	}
}

// writeArchive writes images in the form that docker save has: it needs no
// manifest digests and every runtime imports it.
func writeArchive(path string, images []image) error {
	layer, err := busyboxLayer()
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	errs := []error{addFile(tw, "layer.tar", 0o644, layer)}
	for i, img := range images {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux",
			"config": map[string]any{"Entrypoint": img.entrypoint, "Env": []string{"PATH=/bin"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
		})
		name := fmt.Sprintf("config%d.json", i)
		errs = append(errs, err, addFile(tw, name, 0o644, config))
		manifest = append(manifest, entry{Config: name, RepoTags: []string{img.ref}, Layers: []string{"layer.tar"}})
	}
	content, err := json.Marshal(manifest)
	errs = append(errs, err, addFile(tw, "manifest.json", 0o644, content), tw.Close(), os.WriteFile(path, archive.Bytes(), 0o644))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write images: %w", err)
	}
	return nil
}

func busyboxLayer() ([]byte, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("busybox for the images (Debian package busybox-static): %w", err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	var errs []error
	for _, dir := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
		errs = append(errs, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}))
	}
	errs = append(errs, addFile(tw, "bin/busybox", 0o755, busybox), addFile(tw, "etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n")))
	for _, name := range applets() {
		errs = append(errs, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}))
	}
	errs = append(errs, tw.Close())
	return layer.Bytes(), errors.Join(errs...)
}

func addFile(tw *tar.Writer, name string, mode int64, content []byte) error {
	err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))})
	if err != nil {
		return err
	}
	_, err = tw.Write(content)
	return err
}

// ImportImage imports an OCI or Docker image archive on all nodes, under the
// names that the archive gives.
func (w *World) ImportImage(ctx context.Context, path string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range w.Nodes {
		group.Go(func() error { return n.importImage(ctx, path) })
	}
	return group.Wait()
}

func (n *Node) importImage(ctx context.Context, path string) error {
	archive, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	defer archive.Close()
	inside := filepath.Join("/var/tmp", filepath.Base(path))
	copied, err := os.Create(n.Path(inside))
	if err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	if _, err := io.Copy(copied, archive); err != nil {
		return errors.Join(err, copied.Close())
	}
	_, err = n.Exec(ctx, "ctr", "--namespace=k8s.io", "images", "import", inside)
	return errors.Join(err, copied.Close(), os.Remove(n.Path(inside)))
}
