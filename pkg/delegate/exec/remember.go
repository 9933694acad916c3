package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

// Memory is what the cache knows of one delegate.
type Memory struct {
	Delegate attach.Delegate
	// Netns is the path of the namespace at the time of ADD.
	Netns string
}

// cached is one entry, in libcni's format (cniCacheV1).
type cached struct {
	Kind           string                     `json:"kind"`
	ContainerID    string                     `json:"containerId"`
	Config         []byte                     `json:"config"`
	IfName         string                     `json:"ifName"`
	NetworkName    string                     `json:"networkName"`
	NetNS          string                     `json:"netns,omitempty"`
	CniArgs        [][2]string                `json:"cniArgs,omitempty"`
	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs,omitempty"`
	Result         json.RawMessage            `json:"result,omitempty"`
}

// folder is where the entries of one attachment set are, each in a file with
// the name of its interface: a container may have several sets (podman), and
// no two delegates of a set have one interface.
func (r *Runner) folder(key attach.Key) (string, error) {
	if err := key.Validate(); err != nil {
		return "", fmt.Errorf("cache of results: %w", err)
	}
	return filepath.Join(r.opts.CacheDir, key.ContainerID+"@"+key.IfName, "results"), nil
}

// remember writes the entry of a delegate, whole or not at all. It isn't
// synced: the journal is what survives a loss of power.
func (r *Runner) remember(list *libcni.NetworkConfigList, c Call, result json.RawMessage) error {
	d := c.delegate()
	dir, err := r.folder(c.Plan.Key)
	if err != nil {
		return err
	}
	if err := attach.ValidateIfName(d.IfName); err != nil {
		return fmt.Errorf("cache of results: %w", err)
	}
	entry, err := json.Marshal(cached{
		Kind: libcni.CNICacheV1, ContainerID: c.Plan.Key.ContainerID, Config: list.Bytes,
		IfName: d.IfName, NetworkName: list.Name, NetNS: c.Netns,
		CniArgs: d.Args, CapabilityArgs: d.Capabilities, Result: result,
	})
	if err != nil {
		return fmt.Errorf("cache of results: %w", err)
	}
	failpoint.Hit("delegate.remember.before")
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(unfinished(dir, d.IfName), entry, 0o600)
		failpoint.Hit("delegate.remember.written")
	}
	if err == nil {
		err = os.Rename(unfinished(dir, d.IfName), filepath.Join(dir, d.IfName))
	}
	if err != nil {
		return fmt.Errorf("cache of results: %w", errors.Join(err, r.forget(c)))
	}
	failpoint.Hit("delegate.remember.after")
	return nil
}

// unfinished is the name of an entry that is being written: no interface has a
// '%' in its name.
func unfinished(dir, ifName string) string { return filepath.Join(dir, "%"+ifName) }

// forget removes the entry of a delegate, and the set's folder with its last.
func (r *Runner) forget(c Call) error {
	dir, err := r.folder(c.Plan.Key)
	if err != nil {
		return err
	}
	name := c.delegate().IfName
	if err := attach.ValidateIfName(name); err != nil {
		return fmt.Errorf("cache of results: %w", err)
	}
	failpoint.Hit("delegate.forget.before")
	var errs []error
	for _, path := range []string{unfinished(dir, name), filepath.Join(dir, name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cache of results: %w", err))
		}
	}
	failpoint.Hit("delegate.forget.removed")
	_ = os.Remove(dir) // fails while there are others
	_ = os.Remove(filepath.Dir(dir))
	failpoint.Hit("delegate.forget.after")
	return errors.Join(errs...)
}

// Remembered are the delegates of an attachment set that the cache of results
// still knows, in the order of their interfaces' names, each with what its DEL
// needs. A damaged entry is skipped and logged.
func (r *Runner) Remembered(key attach.Key) ([]Memory, error) {
	dir, err := r.folder(key)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cache of results: %w", err)
	}
	var memories []Memory
	for _, file := range entries {
		if strings.HasPrefix(file.Name(), "%") {
			continue
		}
		e, err := readEntry(filepath.Join(dir, file.Name()), key)
		if err != nil {
			r.opts.Log.Warn("cache of results: an entry was skipped", "set", key.String(), "error", err.Error())
			continue
		}
		memories = append(memories, Memory{Netns: e.NetNS, Delegate: attach.Delegate{
			Network: e.NetworkName, Conf: e.Config, IfName: e.IfName, Args: e.CniArgs, Capabilities: e.CapabilityArgs,
		}})
	}
	return memories, nil
}

// RememberedResult is the result of one delegate's ADD in CNI 1.1.0 by the
// cache of results, nil if it has none.
func (r *Runner) RememberedResult(key attach.Key, d attach.Delegate) (json.RawMessage, error) {
	dir, err := r.folder(key)
	if err == nil {
		err = attach.ValidateIfName(d.IfName)
	}
	if err != nil {
		return nil, err
	}
	e, err := readEntry(filepath.Join(dir, d.IfName), key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return e.Result, nil
}

func readEntry(path string, key attach.Key) (*cached, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cache of results: %w", err)
	}
	var e cached
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("cache of results: %s: %w", path, err)
	}
	if e.Kind != libcni.CNICacheV1 || e.ContainerID != key.ContainerID || e.IfName != filepath.Base(path) || e.NetworkName == "" {
		return nil, fmt.Errorf("cache of results: %s is no entry of this set", path)
	}
	return &e, nil
}
