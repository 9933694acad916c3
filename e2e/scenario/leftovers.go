package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/e2e/world"
)

// Belongings are the things on a node that come with a pod's networks and
// must go with them.
type Belongings map[string]bool

// LookAt lists a node's belongings: pod network namespaces, links other than
// bridges (which the bridge plugin makes once and keeps), host-local leases,
// libcni's cache, and the daemon's journal, spool and quarantine.
func LookAt(ctx context.Context, n *world.Node) (Belongings, error) {
	all := Belongings{}
	links, err := linkNames(ctx, n)
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		all["link "+link] = true
	}
	for _, place := range []struct {
		what, pattern string
		skip          func(string) bool
	}{
		{"network namespace", "/run/netns/*", nothing},
		{"lease", "/var/lib/cni/networks/*/*", isBookkeeping},
		{"libcni cache", "/var/lib/cni/results/*", nothing},
		{"journal", "/var/lib/meta-cni/attachments/*", nothing},
		{"spooled DEL", "/var/lib/meta-cni/spool/*", nothing},
		{"quarantined journal", "/var/lib/meta-cni/quarantine/*", nothing},
	} {
		files, err := fileNames(n, place.pattern, place.skip)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			all[place.what+" "+file] = true
		}
	}
	return all, nil
}

func nothing(string) bool { return false }

// isBookkeeping tells host-local's own files from leases.
func isBookkeeping(name string) bool {
	return name == "lock" || strings.HasPrefix(name, "last_reserved_ip")
}

func linkNames(ctx context.Context, n *world.Node) ([]string, error) {
	out, err := n.Exec(ctx, "ip", "-json", "-details", "link", "show")
	if err != nil {
		return nil, err
	}
	var links []struct {
		Name string `json:"ifname"`
		Info struct {
			Kind string `json:"info_kind"`
		} `json:"linkinfo"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return nil, fmt.Errorf("ip -json link: %w", err)
	}
	var names []string
	for _, link := range links {
		if link.Info.Kind != "" && link.Info.Kind != "bridge" {
			names = append(names, link.Name)
		}
	}
	return names, nil
}

// Leftovers returns an error for everything on the node that was not there
// before.
func Leftovers(ctx context.Context, n *world.Node, before Belongings) error {
	now, err := LookAt(ctx, n)
	if err != nil {
		return err
	}
	var left []error
	for _, thing := range sorted(now) {
		if !before[thing] {
			left = append(left, fmt.Errorf("left on %s: %s", n.Name, thing))
		}
	}
	return errors.Join(left...)
}

// clean waits until the node has no more belongings than when the story began.
func (st *story) clean(ctx context.Context, n *world.Node) error {
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		return Leftovers(ctx, n, st.before[n.Name])
	})
}

func sorted(b Belongings) []string {
	var names []string
	for name := range b {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
