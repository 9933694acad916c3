package crd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// callTimeout bounds one request; a caller's deadline may be shorter.
const callTimeout = 10 * time.Second

// Options of a Store.
type Options struct {
	// Node is the name of the node that asks others for blocks.
	Node string
	// Log must not be nil.
	Log *slog.Logger
}

// Store is an ipam.Store on the API server. Close ends its watches.
type Store struct {
	rest rest.Interface
	meta metadata.Interface
	node string
	log  *slog.Logger

	hints *hints
	seen  seen

	mu      sync.Mutex
	grids   map[string]iprange.Grid
	junk    map[string]bool // names of unreadable objects that were told of
	nodes   int             // as counted last
	counted time.Time
}

// New makes a Store; nothing is read before it is used. config and httpClient
// are those of kube.Client.REST.
func New(config *rest.Config, httpClient *http.Client, o Options) (*Store, error) {
	client, meta, err := clients(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("client of the IPAM's objects: %w", err)
	}
	s := &Store{
		rest: client, meta: meta, node: o.Node, log: o.Log,
		grids: map[string]iprange.Grid{}, junk: map[string]bool{},
	}
	s.hints = newHints(s, o.Log)
	return s, nil
}

// Close ends the watches that the store has begun.
func (s *Store) Close() { s.hints.close() }

// clients makes one for our types and one for metadata, with a scheme of their
// own: client-go's costs tens of megabytes.
func clients(config *rest.Config, httpClient *http.Client) (rest.Interface, metadata.Interface, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	meta, err := metadata.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, nil, err
	}
	version := v1alpha1.GroupVersion()
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &version
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientForConfigAndClient(config, httpClient)
	return client, meta, err
}

// Space implements ipam.Store.
func (s *Store) Space(ctx context.Context, as ipam.Space) (ipam.Space, error) {
	found, err := s.getSpace(ctx, as.Name)
	if !errors.Is(err, ipam.ErrNotFound) {
		return found, err
	}
	if err := as.Grid.Check(); err != nil {
		return ipam.Space{}, fmt.Errorf("make address space %s: %w: %w", as.Name, ipam.ErrInvalid, err)
	}
	made := &v1alpha1.AddressSpace{}
	err = s.create(ctx, v1alpha1.ResourceAddressSpaces, encodeSpace(as), made)
	if errors.Is(err, ipam.ErrExists) {
		return s.getSpace(ctx, as.Name)
	}
	if err != nil {
		return ipam.Space{}, err
	}
	return s.knownSpace(made)
}

func (s *Store) getSpace(ctx context.Context, name string) (ipam.Space, error) {
	if err := ipam.CheckSpaceName(name); err != nil {
		return ipam.Space{}, fmt.Errorf("%w: %w", ipam.ErrInvalid, err)
	}
	found := &v1alpha1.AddressSpace{}
	if err := s.get(ctx, v1alpha1.ResourceAddressSpaces, name, metav1.GetOptions{}, found); err != nil {
		return ipam.Space{}, err
	}
	return s.knownSpace(found)
}

func (s *Store) knownSpace(as *v1alpha1.AddressSpace) (ipam.Space, error) {
	space, err := decodeSpace(as)
	if err != nil {
		return ipam.Space{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grids[space.Name] = space.Grid
	return space, nil
}

// grid is how the space is cut, for labels; false when it can't be known now.
func (s *Store) grid(ctx context.Context, space string) (iprange.Grid, bool) {
	s.mu.Lock()
	grid, known := s.grids[space]
	s.mu.Unlock()
	if known {
		return grid, true
	}
	found, err := s.getSpace(ctx, space)
	return found.Grid, err == nil
}

// GetBlock implements ipam.Store.
func (s *Store) GetBlock(ctx context.Context, ref ipam.BlockRef) (ipam.Block, error) {
	return s.getBlock(ctx, ref, metav1.GetOptions{})
}

func (s *Store) getBlock(ctx context.Context, ref ipam.BlockRef, o metav1.GetOptions) (ipam.Block, error) {
	if err := checkBlock(ref); err != nil {
		return ipam.Block{}, err
	}
	found := &v1alpha1.IPBlock{}
	if err := s.get(ctx, v1alpha1.ResourceIPBlocks, ref.String(), o, found); err != nil {
		return ipam.Block{}, err
	}
	return decodeBlock(found)
}

// CreateBlock implements ipam.Store.
func (s *Store) CreateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	if err := checkBlock(b.Ref); err != nil {
		return ipam.Block{}, err
	}
	b.Version = ipam.Version{}
	made := &v1alpha1.IPBlock{}
	if err := s.create(ctx, v1alpha1.ResourceIPBlocks, encodeBlock(b), made); err != nil {
		return ipam.Block{}, err
	}
	return decodeBlock(made)
}

// UpdateBlock implements ipam.Store.
func (s *Store) UpdateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	if err := checkBlock(b.Ref); err != nil {
		return ipam.Block{}, err
	}
	made := &v1alpha1.IPBlock{}
	if err := s.update(ctx, v1alpha1.ResourceIPBlocks, encodeBlock(b), made); err != nil {
		return ipam.Block{}, err
	}
	return decodeBlock(made)
}

// DeleteBlock implements ipam.Store.
func (s *Store) DeleteBlock(ctx context.Context, ref ipam.BlockRef, v ipam.Version) error {
	if err := checkBlock(ref); err != nil {
		return err
	}
	return s.delete(ctx, v1alpha1.ResourceIPBlocks, ref.String(), v)
}

// GetClaim implements ipam.Store.
func (s *Store) GetClaim(ctx context.Context, ref ipam.ClaimRef) (ipam.Claim, error) {
	if err := checkClaim(ref); err != nil {
		return ipam.Claim{}, err
	}
	found := &v1alpha1.IPClaim{}
	if err := s.get(ctx, v1alpha1.ResourceIPClaims, ref.String(), metav1.GetOptions{}, found); err != nil {
		return ipam.Claim{}, err
	}
	return decodeClaim(found)
}

// CreateClaim implements ipam.Store.
func (s *Store) CreateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	if err := checkClaim(c.Ref); err != nil {
		return ipam.Claim{}, err
	}
	c.Version = ipam.Version{}
	made := &v1alpha1.IPClaim{}
	if err := s.create(ctx, v1alpha1.ResourceIPClaims, s.encodeClaim(ctx, c), made); err != nil {
		return ipam.Claim{}, err
	}
	return decodeClaim(made)
}

// UpdateClaim implements ipam.Store.
func (s *Store) UpdateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	if err := checkClaim(c.Ref); err != nil {
		return ipam.Claim{}, err
	}
	made := &v1alpha1.IPClaim{}
	if err := s.update(ctx, v1alpha1.ResourceIPClaims, s.encodeClaim(ctx, c), made); err != nil {
		return ipam.Claim{}, err
	}
	return decodeClaim(made)
}

// DeleteClaim implements ipam.Store.
func (s *Store) DeleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error {
	if err := checkClaim(ref); err != nil {
		return err
	}
	return s.delete(ctx, v1alpha1.ResourceIPClaims, ref.String(), v)
}

// encodeClaim gives a claim its labels, that of its block if the space's grid
// can be known.
func (s *Store) encodeClaim(ctx context.Context, c ipam.Claim) *v1alpha1.IPClaim {
	out := encodeClaim(c)
	if grid, known := s.grid(ctx, c.Ref.Space); known {
		out.Labels[v1alpha1.LabelBlock] = iprange.BlockName(grid.Block(c.Ref.Addr))
	}
	return out
}
