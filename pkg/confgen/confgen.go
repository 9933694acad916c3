// Package confgen keeps 00-meta.conf, the only CNI configuration that the
// runtime sees: it picks the cluster's primary network among the files of the
// configuration folder, writes our file from it, and repairs that file when
// somebody removes, renames or damages it.
//
// Choose and Generate are pure; Generator holds the folder. It neither runs a
// plugin nor asks the runtime. Invariant: 00-meta.conf is absent or whole and
// valid after each instruction of ours, and it isn't removed when the daemon
// ends (not ready is STATUS 50).
package confgen

import "strings"

const (
	// ConfName is our file's name in the configuration folder.
	ConfName = "00-meta.conf"
	// PluginType is our plugin type, by which our own files are recognised.
	PluginType = "meta-cni"
	// NetworkName is the `name` in our file.
	NetworkName = "meta-cni"

	podAnnotations = "io.kubernetes.cri.pod-annotations"
	tempPrefix     = "." + ConfName + ".tmp-"
)

// File is one file of the configuration folder as read.
type File struct {
	// Name is the base name.
	Name string
	Data []byte
	// Chained are the *.conf of the sub-folder that bears the network's name
	// (CNI specification 1.1.0, section 1, loadOnlyInlinedPlugins), in lexical
	// order.
	Chained []File
	// Err says why the file could not be read; Data is then empty.
	Err error
}

// Pin names the primary; empty means the first in lexical order that isn't
// ours.
type Pin struct {
	// File is a file name in the configuration folder.
	File string
	// Network is the `name` of a configuration.
	Network string
}

func (p Pin) String() string {
	switch {
	case p.File != "":
		return "file " + p.File
	case p.Network != "":
		return "network " + p.Network
	default:
		return "the first configuration"
	}
}

// Settings are what our file says besides the primary's capabilities; an
// empty value leaves its key out.
type Settings struct {
	// CNIVersion is 1.1.0 (default) or 1.0.0.
	CNIVersion string
	// Capabilities are declared besides the primary's.
	Capabilities []string
	// Mode is empty, or thin.
	Mode string
	// The keys that a daemon with other folders than the default, or thin mode,
	// needs.
	Socket, StateDir, ConfDir, ObjectsDir, Kubeconfig, NodeName, IPAMDir string
	NetworkDirs                                                          []string
}

// Choice is the primary that Choose found.
type Choice struct {
	// File is the base name.
	File string
	// Network is the configuration's `name`.
	Network string
	// Config is the configuration as written; only when plugins of a sub-folder
	// belong to it, it is the list with these inlined.
	Config []byte
	// Capabilities are those that at least one plugin declares, sorted.
	Capabilities []string
	// Passed are the files that sort before File and weren't taken; all files
	// when none was.
	Passed []Passed
}

// Passed is a file that was not taken as primary.
type Passed struct {
	File   string
	Reason string
	// Broken marks a file that is not a whole and valid configuration, perhaps
	// because it is being written, unlike one that is valid but not wanted.
	Broken bool
}

func (p Passed) String() string { return p.File + ": " + p.Reason }

// isBroken tells whether the named file was passed over as broken.
func (c Choice) isBroken(file string) (reason string, broken bool) {
	for _, p := range c.Passed {
		if p.File == file && p.Broken {
			return p.Reason, true
		}
	}
	return "", false
}

func (c Choice) anyBroken() bool {
	for _, p := range c.Passed {
		if p.Broken {
			return true
		}
	}
	return false
}

func joinPassed(passed []Passed) string {
	parts := make([]string, len(passed))
	for i, p := range passed {
		parts[i] = p.String()
	}
	return strings.Join(parts, "; ")
}
