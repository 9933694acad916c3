package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Media types and annotations of the OCI image specification 1.1, and the
// annotation by which containerd names an imported image.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"

	annotationRef  = "org.opencontainers.image.ref.name"
	annotationName = "io.containerd.image.name"
)

// descriptor points at a blob (OCI image specification, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// manifest is manifest.md, or with Manifests instead image-index.md.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
}

// config is config.md.
type config struct {
	platform
	Created time.Time `json:"created"`
	Config  execution `json:"config"`
	RootFS  rootFS    `json:"rootfs"`
}

type execution struct {
	User       string
	Env        []string
	Entrypoint []string
	WorkingDir string
	Labels     map[string]string
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// image is what becomes an archive.
type image struct {
	name   string
	arch   string
	date   time.Time
	layers [][]entry
}

// blobs collects content by its digest ("sha256:…").
type blobs map[string][]byte

func (b blobs) add(mediaType string, content []byte) descriptor {
	digest := digestOf(content)
	b[digest] = content
	return descriptor{MediaType: mediaType, Digest: digest, Size: len(content)}
}

func (b blobs) addJSON(mediaType string, value any) (descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	return b.add(mediaType, content), nil
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// archive is the OCI image layout (image-layout.md) as a tar file.
func (i image) archive() ([]byte, error) {
	tag, err := tagOf(i.name)
	if err != nil {
		return nil, err
	}
	store := blobs{}
	top, err := i.manifest(store)
	if err != nil {
		return nil, err
	}
	top.Annotations = map[string]string{annotationName: i.name, annotationRef: tag}
	index, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{top}})
	if err != nil {
		return nil, err
	}
	entries := []entry{
		{name: "oci-layout", mode: 0o644, content: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", mode: 0o644, content: index},
		{name: "blobs/", mode: 0o755},
		{name: "blobs/sha256/", mode: 0o755},
	}
	for _, digest := range slices.Sorted(maps.Keys(store)) {
		path := "blobs/" + strings.Replace(digest, ":", "/", 1)
		entries = append(entries, entry{name: path, mode: 0o644, content: store[digest]})
	}
	return tarball(entries, i.date)
}

func (i image) manifest(store blobs) (descriptor, error) {
	m := manifest{SchemaVersion: 2, MediaType: typeManifest}
	conf := config{
		platform: platform{Architecture: i.arch, OS: "linux"},
		Created:  i.date,
		Config: execution{
			User:       "0:0",
			Env:        []string{"PATH=/opt/meta-cni:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Entrypoint: []string{"/opt/meta-cni/meta-cnid"},
			WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":    "meta-cni",
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.source":   "https://" + module,
			},
		},
		RootFS: rootFS{Type: "layers"},
	}
	for _, entries := range i.layers {
		plain, err := tarball(entries, i.date)
		if err != nil {
			return descriptor{}, err
		}
		packed, err := compressed(plain)
		if err != nil {
			return descriptor{}, err
		}
		m.Layers = append(m.Layers, store.add(typeLayer, packed))
		conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, digestOf(plain))
	}
	confDescriptor, err := store.addJSON(typeConfig, conf)
	if err != nil {
		return descriptor{}, err
	}
	m.Config = &confDescriptor
	d, err := store.addJSON(typeManifest, m)
	d.Platform = &conf.platform
	return d, err
}

// tagOf is the part of an image's name after the last colon of its last
// element.
func tagOf(name string) (string, error) {
	last := name[strings.LastIndex(name, "/")+1:]
	repository, tag, ok := strings.Cut(last, ":")
	if !ok || repository == "" || tag == "" || !strings.Contains(name, "/") {
		return "", fmt.Errorf("image name %q: want host/name:tag, such as localhost/meta-cni:dev", name)
	}
	return tag, nil
}
