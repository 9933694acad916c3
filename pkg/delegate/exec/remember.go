package exec

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/libcni"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// Memory is what libcni's cache of results knows of one delegate.
type Memory struct {
	Delegate attach.Delegate
	// Netns is the path of the namespace at the time of ADD.
	Netns string
}

// Remembered are the delegates of a container that libcni's cache of results
// still knows, each with what its DEL needs.
func (r *Runner) Remembered(containerID string) ([]Memory, error) {
	cni := libcni.NewCNIConfigWithCacheDir(nil, r.opts.CacheDir, nil)
	entries, err := cni.GetCachedAttachments(containerID)
	if err != nil {
		return nil, fmt.Errorf("libcni cache: %w", err)
	}
	memories := make([]Memory, 0, len(entries))
	for _, e := range entries {
		d := attach.Delegate{Network: e.Network, Conf: e.Config, IfName: e.IfName, Args: e.CniArgs}
		if d.Capabilities, err = rawValues(e.CapabilityArgs); err != nil {
			return nil, fmt.Errorf("libcni cache: network %s: %w", e.Network, err)
		}
		memories = append(memories, Memory{Delegate: d, Netns: e.NetNS})
	}
	return memories, nil
}

// RememberedResult is the result of one delegate's ADD in CNI 1.1.0 by
// libcni's cache, nil if it has none.
func (r *Runner) RememberedResult(containerID string, d attach.Delegate) (json.RawMessage, error) {
	list, err := libcni.NetworkConfFromBytes(d.Conf)
	if err != nil {
		return nil, err
	}
	cni := libcni.NewCNIConfigWithCacheDir(nil, r.opts.CacheDir, nil)
	result, err := cni.GetNetworkListCachedResult(list, &libcni.RuntimeConf{ContainerID: containerID, IfName: d.IfName})
	if err != nil || result == nil {
		return nil, err
	}
	return convert(result)
}

func rawValues(values map[string]any) (map[string]json.RawMessage, error) {
	if len(values) == 0 {
		return nil, nil //nolint:nilnil // no capabilities is no error
	}
	raw := make(map[string]json.RawMessage, len(values))
	for name, value := range values {
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		raw[name] = encoded
	}
	return raw, nil
}
