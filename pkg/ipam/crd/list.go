package crd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

const (
	// pageSize of consistent lists; those from the cache have one page.
	pageSize = 500
	// fewBlocks are read one by one.
	fewBlocks = 8
	// fewAddrs are read one by one, some at a time: with an etcd that can't
	// serve consistent lists from the API server's cache (before 3.4.31 and
	// 3.5.13) a list reads every claim of the cluster.
	fewAddrs, atATime = 32, 4
)

// NodeBlocks implements ipam.Store from the API server's cache, which has at
// least what this store wrote.
func (s *Store) NodeBlocks(ctx context.Context, node string) ([]ipam.Block, error) {
	return cached(ctx, s, v1alpha1.ResourceIPBlocks, labels.Set{v1alpha1.LabelNode: labelValue(node)}, func(in *v1alpha1.IPBlock) (ipam.Block, bool, error) {
		b, err := decodeBlock(in)
		return b, b.Owner.Name == node, err
	})
}

// NodeClaims implements ipam.Store; see NodeBlocks.
func (s *Store) NodeClaims(ctx context.Context, node string) ([]ipam.Claim, error) {
	return cached(ctx, s, v1alpha1.ResourceIPClaims, labels.Set{v1alpha1.LabelNode: labelValue(node)}, func(in *v1alpha1.IPClaim) (ipam.Claim, bool, error) {
		c, err := decodeClaim(in)
		return c, c.Node.Name == node, err
	})
}

// KeptClaims implements ipam.Store.
func (s *Store) KeptClaims(ctx context.Context, keep ipam.Keeper) ([]ipam.Claim, error) {
	label, err := keeperLabel(keep)
	if err != nil {
		return nil, fmt.Errorf("claims of %s: %w", keep, err)
	}
	return consistent(ctx, s, v1alpha1.ResourceIPClaims, labels.Set{v1alpha1.LabelKeeper: label}, func(in *v1alpha1.IPClaim) (ipam.Claim, bool, error) {
		c, err := decodeClaim(in)
		return c, c.Keep == keep, err
	})
}

// SpaceClaims implements ipam.Store: a few addresses by name, many by one list.
func (s *Store) SpaceClaims(ctx context.Context, space string, within iprange.Set) ([]ipam.Claim, error) {
	if within.Count().Cmp(iprange.From64(fewAddrs)) <= 0 {
		return s.claimsByName(ctx, space, within)
	}
	return consistent(ctx, s, v1alpha1.ResourceIPClaims, labels.Set{v1alpha1.LabelSpace: space}, func(in *v1alpha1.IPClaim) (ipam.Claim, bool, error) {
		c, err := decodeClaim(in)
		return c, c.Ref.Space == space && within.Contains(c.Ref.Addr), err
	})
}

func (s *Store) claimsByName(ctx context.Context, space string, within iprange.Set) ([]ipam.Claim, error) {
	var mu sync.Mutex
	var found []ipam.Claim
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for addr := range within.Addrs() {
		group.Go(func() error {
			c, err := s.GetClaim(ctx, ipam.ClaimRef{Space: space, Addr: addr})
			if errors.Is(err, ipam.ErrNotFound) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, c)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return found, nil
}

// SpaceBlocks implements ipam.Store from the API server's cache: a few blocks
// by name, many by one list.
func (s *Store) SpaceBlocks(ctx context.Context, space string, within iprange.Set) ([]ipam.Block, error) {
	grid, known := s.grid(ctx, space)
	if !known || grid.Blocks(within).Count().Cmp(iprange.From64(fewBlocks)) > 0 {
		return cached(ctx, s, v1alpha1.ResourceIPBlocks, labels.Set{v1alpha1.LabelSpace: space}, func(in *v1alpha1.IPBlock) (ipam.Block, bool, error) {
			b, err := decodeBlock(in)
			return b, err == nil && b.Ref.Space == space && within.Overlaps(iprange.SetOf(iprange.OfPrefix(b.Ref.Prefix))), err
		})
	}
	var found []ipam.Block
	for prefix := range grid.Blocks(within).From(iprange.Uint128{}) {
		b, err := s.getBlock(ctx, ipam.BlockRef{Space: space, Prefix: prefix}, metav1.GetOptions{ResourceVersion: "0"})
		switch {
		case err == nil:
			found = append(found, b)
		case !errors.Is(err, ipam.ErrNotFound):
			return nil, err
		}
	}
	return found, nil
}

// cached lists from the API server's cache.
func cached[O, V any](ctx context.Context, s *Store, resource string, set labels.Set, keep func(*O) (V, bool, error)) ([]V, error) {
	options := s.seen.atLeast(resource)
	options.LabelSelector = set.String()
	all, err := page(ctx, s, resource, &options, keep)
	if apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		s.seen.forget(resource)
		return cached(ctx, s, resource, set, keep)
	}
	return all, listed(err, resource)
}

// consistent lists what is there now, page by page of one state.
func consistent[O, V any](ctx context.Context, s *Store, resource string, set labels.Set, keep func(*O) (V, bool, error)) ([]V, error) {
	options := metav1.ListOptions{LabelSelector: set.String(), Limit: pageSize}
	var all []V
	for {
		next, err := page(ctx, s, resource, &options, keep)
		switch {
		case apierrors.IsResourceExpired(err) && options.Limit > 0:
			// That state was thrown away meanwhile: anew, and in one piece.
			all, options.Limit, options.Continue = nil, 0, ""
			continue
		case err != nil:
			return nil, listed(err, resource)
		}
		if all = append(all, next...); options.Continue == "" {
			return all, nil
		}
	}
}

func listed(err error, resource string) error {
	return kube.Explain(err, "list", kind(resource))
}

// page reads one answer object by object, so that only what keep keeps of it
// is in memory, and sets o to the next page.
func page[O, V any](ctx context.Context, s *Store, resource string, o *metav1.ListOptions, keep func(*O) (V, bool, error)) ([]V, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := at(s.rest.Get(), resource).VersionedParams(o, metav1.ParameterCodec).MaxRetries(1).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var all []V
	meta, err := readList(body, func(item *O) {
		value, wanted, err := keep(item)
		switch {
		case err != nil:
			s.tellJunk(err)
		case wanted:
			all = append(all, value)
		}
	})
	o.Continue = meta.Continue
	return all, err
}

// tellJunk logs an object that can't be read, once: it must not hide all
// others.
func (s *Store) tellJunk(err error) {
	s.mu.Lock()
	told := s.junk[err.Error()]
	s.junk[err.Error()] = true
	s.mu.Unlock()
	if !told {
		s.log.Warn("an object of the IPAM can't be read and is passed over; its name stays taken", "error", err)
	}
}

// readList decodes a List; each gets one item after the other.
func readList[O any](body io.Reader, each func(*O)) (metav1.ListMeta, error) {
	var meta metav1.ListMeta
	decoder := json.NewDecoder(body)
	if err := delim(decoder, '{'); err != nil {
		return meta, err
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return meta, unreadable(err)
		}
		switch key {
		case "metadata":
			err = decoder.Decode(&meta)
		case "items":
			err = readItems(decoder, each)
		default:
			err = decoder.Decode(&json.RawMessage{})
		}
		if err != nil {
			return meta, unreadable(err)
		}
	}
	return meta, delim(decoder, '}')
}

func readItems[O any](decoder *json.Decoder, each func(*O)) error {
	token, err := decoder.Token()
	if token == nil || err != nil { // null
		return err
	}
	for decoder.More() {
		item := new(O)
		if err := decoder.Decode(item); err != nil {
			return err
		}
		each(item)
	}
	return delim(decoder, ']')
}

func delim(decoder *json.Decoder, want json.Delim) error {
	token, err := decoder.Token()
	if err == nil && token != want {
		err = fmt.Errorf("%v where %v belongs", token, want)
	}
	return unreadable(err)
}

func unreadable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the API server's list can't be read: %w", err)
}
