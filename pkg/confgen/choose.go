package confgen

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Choose picks the primary: the first in lexical order among the files that
// runtimes load and that isn't ours or Multus', or the pinned one. The order
// of files doesn't matter. Without a primary the error says why each file was
// passed over, and so does the Choice.
func Choose(files []File, pin Pin) (Choice, error) {
	sorted := slices.Clone(files)
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	var c Choice
	for _, f := range sorted {
		if !wanted(f.Name, pin) {
			continue
		}
		n, passed, ok := judge(f, pin)
		if !ok {
			c.Passed = append(c.Passed, passed)
			continue
		}
		c.File, c.Network, c.Config = f.Name, n.name, n.config
		c.Capabilities = slices.Sorted(maps.Keys(n.capabilities))
		return c, nil
	}
	return c, noPrimary(c.Passed, pin)
}

// wanted leaves out what runtimes don't load, our own file and, with a pin,
// all others.
func wanted(name string, pin Pin) bool {
	if pin.File != "" {
		return name == pin.File
	}
	return isCandidate(name) && name != ConfName
}

// judge tells whether the file may be the primary.
func judge(f File, pin Pin) (network, Passed, bool) {
	if f.Name == ConfName {
		return network{}, Passed{File: f.Name, Reason: "is meta-cni's own"}, false
	}
	if f.Name == "00-multus.conf" || f.Name == "00-multus.conflist" {
		return network{}, Passed{File: f.Name, Reason: reasonMultus}, false
	}
	n, err := parse(f)
	if err != nil {
		return network{}, Passed{File: f.Name, Reason: err.Error(), Broken: true}, false
	}
	if reason := meta(n.types); reason != "" {
		return network{}, Passed{File: f.Name, Reason: reason}, false
	}
	if pin.Network != "" && n.name != pin.Network {
		return network{}, Passed{File: f.Name, Reason: fmt.Sprintf("is network %q, not the pinned %q", n.name, pin.Network)}, false
	}
	return n, Passed{}, true
}

const reasonMultus = "belongs to Multus, and one meta plugin must not call the other: " +
	"remove Multus' DaemonSet, then this file"

// meta recognises by content the configurations that would call us again
// (without end) or another meta plugin.
func meta(types []string) string {
	for _, kind := range types {
		switch kind {
		case PluginType:
			return "calls " + PluginType + " itself and so can't be below it"
		case "multus", "multus-shim":
			return reasonMultus
		}
	}
	return ""
}

func noPrimary(passed []Passed, pin Pin) error {
	switch {
	case len(passed) > 0:
		return fmt.Errorf("%w (wanted: %s): %s", ErrNoPrimary, pin, joinPassed(passed))
	case pin.File != "":
		return fmt.Errorf("%w: the pinned file %s is not there: wait for the primary network's agent, or pin another", ErrNoPrimary, pin.File)
	default:
		return fmt.Errorf("%w (wanted: %s): no .conf, .conflist or .json is there: is the primary network installed?", ErrNoPrimary, pin)
	}
}
