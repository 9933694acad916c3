package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Release gives all addresses of a key back; see ipam.Allocator. What has a
// claim is given up in the store later, by Cool.
func (a *Agent) Release(ctx context.Context, key ipam.Key) error {
	leave, err := a.enter(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	if err := a.releaseKey(key); err != nil {
		return err
	}
	for _, imported := range a.vague(key) {
		if err := a.releaseVague(ctx, imported); err != nil {
			return err
		}
	}
	return nil
}

// releaseVague is for a key that covers the one whose turn it is; no key covers
// one that covers it, so nobody waits in a circle.
func (a *Agent) releaseVague(ctx context.Context, key ipam.Key) error {
	leave, err := a.enter(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	return a.releaseKey(key)
}

// vague are imported keys that don't know all of their name and cover this one.
func (a *Agent) vague(key ipam.Key) []ipam.Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []ipam.Key
	for other := range a.state.vague {
		if other != key && other.Covers(key) {
			keys = append(keys, other)
		}
	}
	return keys
}

func (a *Agent) releaseKey(key ipam.Key) error {
	a.mu.Lock()
	if a.state.records[key] == nil && a.state.intents[key] == nil {
		a.mu.Unlock()
		return nil
	}
	t, err := a.order(a.log.AppendReserved, entry{Op: opRelease, Key: &key})
	a.mu.Unlock()
	if err == nil {
		err = t.Wait()
	}
	if err != nil {
		return fmt.Errorf("release of %s: %w", key, err)
	}
	a.wake()
	return nil
}

// ReleaseAttachment is Release for every network of an interface; see
// ipam.Allocator.
func (a *Agent) ReleaseAttachment(ctx context.Context, containerID, ifName string) error {
	for _, key := range a.keys(func(k ipam.Key) bool {
		return k.Covers(ipam.Key{ContainerID: containerID, IfName: ifName, Network: k.Network})
	}) {
		if err := a.Release(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// keys are those with a record or an intent that the condition admits.
func (a *Agent) keys(admit func(ipam.Key) bool) []ipam.Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []ipam.Key
	for key := range a.state.records {
		if admit(key) {
			keys = append(keys, key)
		}
	}
	for key := range a.state.intents {
		if admit(key) && a.state.records[key] == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// Held are the addresses of a key.
func (a *Agent) Held(key ipam.Key) []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.state.records[key]
	if r == nil {
		return nil
	}
	addrs := make([]netip.Addr, len(r.Places))
	for _, p := range r.Places {
		addrs[p.Want] = p.Addr
	}
	return addrs
}
