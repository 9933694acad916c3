package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"time"
)

// entry is a file, a folder (name ends in /) or a symbolic link (target set)
// of a layer, owned by root.
type entry struct {
	name    string
	mode    int64
	content []byte
	target  string
}

// layers are the image's contents, what changes least first.
func layers(p programs) [][]entry {
	base := []entry{
		// The manifest mounts the node's /usr, so that plugins find the programs
		// and libraries that they need; these are the names that lead there.
		{name: "bin", mode: 0o777, target: "usr/bin"},
		{name: "dev/", mode: 0o755},
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, content: []byte("root:x:0:\n")},
		{name: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/:/sbin/nologin\n")},
		{name: "lib", mode: 0o777, target: "usr/lib"},
		{name: "lib64", mode: 0o777, target: "usr/lib64"},
		{name: "opt/", mode: 0o755},
		{name: "opt/meta-cni/", mode: 0o755},
		{name: "proc/", mode: 0o755},
		{name: "run/", mode: 0o755},
		{name: "sbin", mode: 0o777, target: "usr/sbin"},
		{name: "sys/", mode: 0o755},
		{name: "usr/", mode: 0o755},
		{name: "var/", mode: 0o755},
		{name: "var/lib/", mode: 0o755},
		// Runtimes name network namespaces /var/run/netns/…, the manifest mounts
		// /run/netns.
		{name: "var/run", mode: 0o777, target: "/run"},
	}
	plugin := []entry{{name: "opt/meta-cni/meta-cni", mode: 0o755, content: p.plugin}}
	daemon := []entry{{name: "opt/meta-cni/meta-cnid", mode: 0o755, content: p.daemon}}
	controller := []entry{{name: "opt/meta-cni/meta-cni-controller", mode: 0o755, content: p.controller}}
	metactl := []entry{{name: "opt/meta-cni/metactl", mode: 0o755, content: p.metactl}}
	return [][]entry{base, plugin, metactl, controller, daemon}
}

// tarball writes entries in their order.
func tarball(entries []entry, date time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Size: int64(len(e.content)), ModTime: date, Format: tar.FormatPAX}
		switch {
		case e.target != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, e.target
		case e.name[len(e.name)-1] == '/':
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// compressed is data in gzip form; the header holds neither name nor date.
func compressed(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
