// Package objects is the store of a host without Kubernetes: a folder of YAML
// files with NetworkAttachmentDefinitions and Pods, as one would give them to
// kubectl. A pod counts only by its name and annotations.
//
// It always answers from the files as they are: a file that changed is read
// again at the next question. A file that can't be read is named in the answer
// to whatever it might hold, and doesn't hide the others.
package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// ErrNotFound says that no file has the network definition.
var ErrNotFound = attach.ErrNetworkNotFound

// maxFile bounds one file, so that a wrong folder can't fill the memory.
const maxFile = 4 << 20

// Store answers from the files of one folder. It is safe for concurrent use.
type Store struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	files map[string]*file // by name
}

// file is one file as it was read last.
type file struct {
	size     int64
	modified time.Time
	inode    uint64
	content  content
	err      error
}

// Open makes a store of the YAML files (.yaml, .yml, .json) of dir. The folder
// may come and go later; a missing one holds nothing.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("objects folder %q: write an absolute path", dir)
	}
	s := &Store{dir: dir, log: log, files: map[string]*file{}}
	if err := s.refresh(); err != nil {
		return nil, err
	}
	return s, nil
}

// Network is the definition that ref names. Errors: ErrNotFound, with the
// files that can't be read and might hold it.
func (s *Store) Network(ctx context.Context, ref attach.NetworkRef) (attach.Network, error) {
	if err := ctx.Err(); err != nil {
		return attach.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", ref, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(); err != nil {
		return attach.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", ref, err)
	}
	for _, name := range s.names() {
		if network, ok := s.files[name].content.networks[ref]; ok {
			network.Config = slices.Clone(network.Config)
			network.Source += " (" + filepath.Join(s.dir, name) + ")"
			return network, nil
		}
	}
	return attach.Network{}, errors.Join(fmt.Errorf("NetworkAttachmentDefinition %s: %w in %s", ref, ErrNotFound, s.dir), s.broken())
}

// PodAnnotations is what a file says about the pod, and the pod with its UID
// filled in if the file has one. A pod in no file asks for nothing; but while a
// file can't be read, that is an error that names the file, because the pod
// might be in it.
func (s *Store) PodAnnotations(ctx context.Context, pod attach.Pod) (map[string]string, attach.Pod, error) {
	if err := ctx.Err(); err != nil {
		return nil, pod, fmt.Errorf("pod %s: %w", pod, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(); err != nil {
		return nil, pod, fmt.Errorf("pod %s: %w", pod, err)
	}
	key := podKey{namespace: orDefault(pod.Namespace), name: pod.Name}
	for _, name := range s.names() {
		found, ok := s.files[name].content.pods[key]
		if !ok {
			continue
		}
		if pod.UID != "" && found.uid != "" && pod.UID != found.uid {
			return nil, pod, fmt.Errorf("pod %s: %w: expected pod UID %q but got %q from %s: correct metadata.uid or leave it out", pod, attach.ErrPodReplaced, pod.UID, found.uid, filepath.Join(s.dir, name))
		}
		if pod.UID == "" {
			pod.UID = found.uid
		}
		return maps.Clone(found.annotations), pod, nil
	}
	if err := s.broken(); err != nil {
		return nil, pod, fmt.Errorf("pod %s is in no file that can be read: %w", pod, err)
	}
	return map[string]string{}, pod, nil
}

// names are the files in the order of their names; the first that has an
// object counts.
func (s *Store) names() []string { return slices.Sorted(maps.Keys(s.files)) }

// broken names every file that can't be read, or is nil.
func (s *Store) broken() error {
	var errs []error
	for _, name := range s.names() {
		errs = append(errs, s.files[name].err)
	}
	return errors.Join(errs...)
}

// refresh reads the files that have changed.
func (s *Store) refresh() error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		s.files = map[string]*file{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("objects folder: %w", err)
	}
	present := map[string]bool{}
	for _, entry := range entries {
		name := entry.Name()
		if !isObjects(name) {
			continue
		}
		if s.refreshFile(name) {
			present[name] = true
		}
	}
	maps.DeleteFunc(s.files, func(name string, _ *file) bool { return !present[name] })
	return nil
}

// isObjects leaves out hidden files: editors and ConfigMap volumes keep theirs.
func isObjects(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

func orDefault(namespace string) string {
	if namespace == "" {
		return "default"
	}
	return namespace
}
