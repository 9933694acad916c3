package objects

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// racy is how long after its last change a file is read again although it
// looks the same: two writes within one tick of the clock have one time.
const racy = 2 * time.Second

// resourceNameKey is the annotation that binds a definition to a device plugin.
const resourceNameKey = "k8s.v1.cni.cncf.io/resourceName"

// content is what one file holds.
type content struct {
	networks map[attach.NetworkRef]attach.Network
	pods     map[podKey]podEntry
}

type podKey struct{ namespace, name string }

type podEntry struct {
	uid         string
	annotations map[string]string
}

// refreshFile reads one file if it has changed; false if it is gone or no file.
func (s *Store) refreshFile(name string) bool {
	path := filepath.Join(s.dir, name)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	now := &file{size: info.Size(), modified: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		now.inode = stat.Ino
	}
	before := s.files[name]
	if before != nil && before.size == now.size && before.inode == now.inode &&
		before.modified.Equal(now.modified) && time.Since(now.modified) > racy {
		return true
	}
	now.content, now.err = readFile(path)
	if now.err != nil && (before == nil || before.err == nil || before.err.Error() != now.err.Error()) {
		s.log.Warn("a file of objects can't be read; the others count", "error", now.err)
	}
	s.files[name] = now
	return true
}

func readFile(path string) (content, error) {
	data, err := readLimited(path)
	if err != nil {
		return content{}, fmt.Errorf("objects file %s: %w", path, err)
	}
	c, err := parse(data)
	if err != nil {
		return content{}, fmt.Errorf("objects file %s: %w", path, err)
	}
	return c, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("it is larger than %d bytes: split it", maxFile)
	}
	return data, nil
}

// parse reads the documents of one file; one that is wrong makes all of them
// count for nothing, so that a half-written file is never half believed.
func parse(data []byte) (content, error) {
	c := content{networks: map[attach.NetworkRef]attach.Network{}, pods: map[podKey]podEntry{}}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for i := 1; ; i++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err == nil {
			err = c.add(document)
		}
		if err != nil {
			return content{}, fmt.Errorf("document %d: %w", i, err)
		}
	}
}

// add reads one document; objects of other kinds are left out.
func (c *content) add(document []byte) error {
	var object struct {
		metav1.PartialObjectMetadata `json:",inline"`
		Items                        []json.RawMessage `json:"items"`
	}
	if err := yaml.Unmarshal(document, &object); err != nil {
		return err
	}
	namespace := orDefault(object.Namespace)
	switch object.GroupVersionKind().GroupKind().String() {
	case "":
		if text, err := yaml.YAMLToJSON(document); err == nil && string(text) == "null" {
			return nil // comments only
		}
		return errors.New("it has no kind: write apiVersion and kind as for kubectl")
	case "List":
		for i, item := range object.Items {
			if err := c.add(item); err != nil {
				return fmt.Errorf("item %d: %w", i+1, err)
			}
		}
	case "NetworkAttachmentDefinition.k8s.cni.cncf.io":
		return c.addNetwork(document, namespace)
	case "Pod":
		key := podKey{namespace: namespace, name: object.Name}
		if _, twice := c.pods[key]; twice || object.Name == "" {
			return fmt.Errorf("pod %s/%s has no name or occurs twice", namespace, object.Name)
		}
		annotations := object.Annotations
		if annotations == nil {
			annotations = map[string]string{}
		}
		c.pods[key] = podEntry{uid: string(object.UID), annotations: annotations}
	}
	return nil
}

func (c *content) addNetwork(document []byte, namespace string) error {
	var nad nadv1.NetworkAttachmentDefinition
	if err := yaml.UnmarshalStrict(document, &nad); err != nil {
		return err
	}
	ref := attach.NetworkRef{Namespace: namespace, Name: nad.Name}
	if _, twice := c.networks[ref]; twice || nad.Name == "" {
		return fmt.Errorf("NetworkAttachmentDefinition %s has no name or occurs twice", ref)
	}
	c.networks[ref] = attach.Network{
		Ref: ref, Config: []byte(nad.Spec.Config), ResourceName: nad.Annotations[resourceNameKey],
		Source: "NetworkAttachmentDefinition " + ref.String(),
	}
	return nil
}
