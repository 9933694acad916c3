package dir

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ippool"
)

// Pools are the IPPools in the YAML files (.yaml, .yml, .json) of a folder, as
// one would give them to kubectl. Each question is answered from the files as
// they are; objects of other kinds are left out. One file that can't be read is
// an error for all: nobody knows which pool it has.
type Pools struct {
	// Dir is the folder; a missing one holds nothing.
	Dir string
	// Labels are this node's, for nodeSelector. A namespace has no label but its
	// name (kubernetes.io/metadata.name).
	Labels map[string]string
	Log    *slog.Logger
}

var _ ipam.Pools = Pools{}

// Pool is ipam.Pools'.
func (p Pools) Pool(ctx context.Context, name, namespace string) (ipam.Pool, error) {
	pools, err := p.read(ctx)
	if err != nil {
		return ipam.Pool{}, err
	}
	found, ok := pools[name]
	if !ok {
		return ipam.Pool{}, fmt.Errorf("IPPool %s: %w in %s; there are: %q", name, ipam.ErrNoPool, p.Dir, slices.Sorted(maps.Keys(pools)))
	}
	why, err := p.refuses(found.spec, namespace)
	if err != nil {
		return ipam.Pool{}, fmt.Errorf("IPPool %s: %w", name, err)
	}
	if why != "" {
		return ipam.Pool{}, fmt.Errorf("IPPool %s: %w here: %s", name, ipam.ErrNoPool, why)
	}
	return found.pool, nil
}

// Match is ipam.Pools'.
func (p Pools) Match(ctx context.Context, namespace string) ([]ipam.Pool, error) {
	pools, err := p.read(ctx)
	if err != nil {
		return nil, err
	}
	var fit []ipam.Pool
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		found := pools[name]
		why, err := p.refuses(found.spec, namespace)
		if err != nil {
			return nil, fmt.Errorf("IPPool %s: %w", name, err)
		}
		if why == "" && found.spec.Default {
			fit = append(fit, found.pool)
		}
	}
	return fit, nil
}

// Note is ipam.Pools'. Without a cluster people have the definition's file.
func (p Pools) Note(pool ipam.Pool) {
	p.Log.Debug("a network definition is a pool", "pool", pool.Name, "definition", pool.Definition)
}

// refuses is why the pool is not for this node and namespace; empty if it is.
func (p Pools) refuses(spec v1alpha1.IPPoolSpec, namespace string) (string, error) {
	for _, by := range []struct {
		what, name string
		selector   *metav1.LabelSelector
		has        labels.Set
	}{
		{"nodeSelector", "this node", spec.NodeSelector, p.Labels},
		{"namespaceSelector", "namespace " + namespace, spec.NamespaceSelector, labels.Set{"kubernetes.io/metadata.name": namespace}},
	} {
		if by.selector == nil {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(by.selector)
		if err != nil {
			return "", fmt.Errorf("%s: %w", by.what, err)
		}
		if !selector.Matches(by.has) {
			return fmt.Sprintf("its %s (%s) doesn't admit %s with the labels %q", by.what, selector, by.name, by.has), nil
		}
	}
	return "", nil
}

// declared is one IPPool of a file.
type declared struct {
	spec v1alpha1.IPPoolSpec
	pool ipam.Pool
}

// read reads all files.
func (p Pools) read(ctx context.Context) (map[string]declared, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("IPPools: %w", err)
	}
	pools := map[string]declared{}
	for _, entry := range entries {
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(entry.Name())) {
			continue
		}
		path := filepath.Join(p.Dir, entry.Name())
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = addDocuments(pools, data)
		}
		if err != nil {
			return nil, fmt.Errorf("IPPools in %s: %w", path, err)
		}
	}
	return pools, nil
}

func addDocuments(pools map[string]declared, data []byte) error {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = addDocument(pools, document)
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

// addDocument adds one document if it is an IPPool.
func addDocument(pools map[string]declared, document []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	if kind.Kind != "IPPool" || kind.APIVersion != v1alpha1.GroupVersion().String() {
		return nil
	}
	var object v1alpha1.IPPool
	if err := yaml.UnmarshalStrict(document, &object); err != nil {
		return fmt.Errorf("IPPool: %w", err)
	}
	if _, twice := pools[object.Name]; twice || object.Name == "" {
		return fmt.Errorf("IPPool %q has no name or occurs twice: give each a name of its own", object.Name)
	}
	pool, err := ippool.Of(object.Name, object.Spec)
	if err != nil {
		return fmt.Errorf("IPPool %s: %w", object.Name, err)
	}
	pools[object.Name] = declared{object.Spec, pool}
	return nil
}
