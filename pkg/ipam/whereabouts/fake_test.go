package whereabouts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// world has the objects of both systems. Every call goes through gate, which a
// test may use to decide what happens next, and to what end.
type world struct {
	mu           sync.Mutex
	serial       int
	spaces       map[string]ipam.Space
	blocks       map[ipam.BlockRef]ipam.Block
	claims       map[ipam.ClaimRef]ipam.Claim
	reservations map[string]Reservation
	asked        map[string][]ipam.BlockRef
	// gate runs do, which applies the call, or not, and gives what the caller
	// is told.
	gate func(ctx context.Context, what string, do func() error) error
}

func newWorld() *world {
	return &world{
		spaces: map[string]ipam.Space{}, blocks: map[ipam.BlockRef]ipam.Block{}, claims: map[ipam.ClaimRef]ipam.Claim{},
		reservations: map[string]Reservation{}, asked: map[string][]ipam.BlockRef{},
		gate: func(_ context.Context, _ string, do func() error) error { return do() },
	}
}

func (w *world) call(ctx context.Context, what string, do func() error) error {
	return w.gate(ctx, what, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		return do()
	})
}

func (w *world) next() string {
	w.serial++
	return strconv.Itoa(w.serial)
}

// fakeStore is an ipam.Store; what the tests don't use is nil.
type fakeStore struct {
	ipam.Store
	*world
}

func (f fakeStore) Space(ctx context.Context, as ipam.Space) (have ipam.Space, err error) {
	err = f.call(ctx, "space", func() error {
		if _, ok := f.spaces[as.Name]; !ok {
			as.Version = ipam.Version{UID: f.next(), Resource: f.next()}
			f.spaces[as.Name] = as
		}
		have = f.spaces[as.Name]
		return nil
	})
	return have, err
}

func (f fakeStore) GetBlock(ctx context.Context, ref ipam.BlockRef) (b ipam.Block, err error) {
	err = f.call(ctx, "get block", func() (err error) {
		b, err = get(f.blocks, ref)
		return err
	})
	return b, err
}

func (f fakeStore) CreateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	err := f.call(ctx, "create block", func() error {
		b.Version = ipam.Version{UID: f.next(), Resource: f.next()}
		return create(f.blocks, b.Ref, b)
	})
	return b, err
}

func (f fakeStore) UpdateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	err := f.call(ctx, "update block", func() error {
		stored, err := get(f.blocks, b.Ref)
		if err == nil && stored.Version != b.Version {
			err = ipam.ErrStale
		}
		if err != nil {
			return err
		}
		b.Version.Resource = f.next()
		f.blocks[b.Ref] = b
		return nil
	})
	return b, err
}

func (f fakeStore) GetClaim(ctx context.Context, ref ipam.ClaimRef) (c ipam.Claim, err error) {
	err = f.call(ctx, "get claim", func() (err error) {
		c, err = get(f.claims, ref)
		return err
	})
	return c, err
}

func (f fakeStore) CreateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	err := f.call(ctx, "create claim", func() error {
		c.Version = ipam.Version{UID: f.next(), Resource: f.next()}
		return create(f.claims, c.Ref, c)
	})
	return c, err
}

func (f fakeStore) UpdateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	err := f.call(ctx, "update claim", func() error {
		stored, err := get(f.claims, c.Ref)
		if err == nil && stored.Version != c.Version {
			err = ipam.ErrStale
		}
		if err != nil {
			return err
		}
		c.Version.Resource = f.next()
		f.claims[c.Ref] = c
		return nil
	})
	return c, err
}

func (f fakeStore) DeleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error {
	return f.call(ctx, "delete claim", func() error {
		stored, err := get(f.claims, ref)
		if err == nil && stored.Version != v {
			err = ipam.ErrStale
		}
		if err == nil {
			delete(f.claims, ref)
		}
		return err
	})
}

func (f fakeStore) SpaceClaims(ctx context.Context, space string, within iprange.Set) (all []ipam.Claim, err error) {
	err = f.call(ctx, "list claims", func() error {
		for ref, c := range f.claims {
			if ref.Space == space && within.Contains(ref.Addr) {
				all = append(all, c)
			}
		}
		return nil
	})
	return all, err
}

func (f fakeStore) SpaceBlocks(ctx context.Context, space string, within iprange.Set) (all []ipam.Block, err error) {
	err = f.call(ctx, "list blocks", func() error {
		for ref, b := range f.blocks {
			if ref.Space == space && within.Overlaps(iprange.SetOf(iprange.OfPrefix(ref.Prefix))) {
				all = append(all, b)
			}
		}
		return nil
	})
	return all, err
}

func (f fakeStore) Taken(ctx context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error) {
	claims, err := f.SpaceClaims(ctx, space, within)
	taken := map[netip.Addr]bool{}
	for _, c := range claims {
		taken[c.Ref.Addr] = true
	}
	return taken, err
}

func (f fakeStore) Ask(ctx context.Context, node string, ref ipam.BlockRef) error {
	return f.call(ctx, "ask", func() error {
		f.asked[node] = append(f.asked[node], ref)
		return nil
	})
}

// fakeAPI keeps reservations as an API server does: an update that changes
// nothing gives no new resourceVersion.
type fakeAPI struct{ *world }

func (f fakeAPI) Get(ctx context.Context, name string) (r Reservation, err error) {
	err = f.call(ctx, "get reservation", func() (err error) {
		r, err = get(f.reservations, name)
		return err
	})
	return r, err
}

func (f fakeAPI) Create(ctx context.Context, r Reservation) (Reservation, error) {
	err := f.call(ctx, "create reservation", func() error {
		r.UID, r.ResourceVersion = types.UID(f.next()), f.next()
		return create(f.reservations, r.Name, r)
	})
	return r, err
}

func (f fakeAPI) Update(ctx context.Context, r Reservation) (Reservation, error) {
	err := f.call(ctx, "update reservation", func() error {
		stored, err := get(f.reservations, r.Name)
		if err == nil && stored.version() != r.version() {
			err = ipam.ErrStale
		}
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(stored, r) {
			r.ResourceVersion = f.next()
		}
		f.reservations[r.Name] = r
		return nil
	})
	return r, err
}

func (f fakeAPI) Delete(ctx context.Context, name string, v ipam.Version) error {
	return f.call(ctx, "delete reservation", func() error {
		stored, err := get(f.reservations, name)
		if err == nil && stored.version() != v {
			err = ipam.ErrStale
		}
		if err == nil {
			delete(f.reservations, name)
		}
		return err
	})
}

func (f fakeAPI) List(ctx context.Context) (all []Reservation, err error) {
	err = f.call(ctx, "list reservations", func() error {
		for r := range maps.Values(f.reservations) {
			all = append(all, r)
		}
		return nil
	})
	return all, err
}

func get[K comparable, V any](objects map[K]V, key K) (V, error) {
	found, ok := objects[key]
	if !ok {
		return found, ipam.ErrNotFound
	}
	return found, nil
}

func create[K comparable, V any](objects map[K]V, key K, object V) error {
	if _, ok := objects[key]; ok {
		return ipam.ErrExists
	}
	objects[key] = object
	return nil
}

// errLost is what a caller gets that doesn't know what became of its call.
var errLost = errors.New("connection lost")

func ref(text string) ipam.ClaimRef {
	return ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: netip.MustParseAddr(text)}
}

func claim(address, pod string, generation int) ipam.Claim {
	return ipam.Claim{
		Ref: ref(address), State: ipam.Bound, Node: ipam.Node{Name: "n", Boot: "b", Log: "l"},
		Owner: ipam.Owner{
			Key:          ipam.Key{ContainerID: fmt.Sprintf("%s-%d", pod, generation), IfName: "net1", Network: "red"},
			PodNamespace: "default", PodName: pod,
		},
	}
}
