package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

// defaultStateDir is the daemon's.
const defaultStateDir = "/var/lib/meta-cni"

// thin is the mode without a daemon.
const thin = "thin"

// conf is what the plugin itself needs of the network configuration; the
// daemon reads the whole.
type conf struct {
	CNIVersion   string `json:"cniVersion"`
	Socket       string `json:"socket"`
	StateDir     string `json:"stateDir"`
	Mode         string `json:"mode"`
	DaemonBinary string `json:"daemonBinary"`
}

// parseConf reads the configuration for the plugin of that name. With a
// problem, what could be read is returned beside it.
func parseConf(plugin string, data []byte) (conf, *wire.Error) {
	var c conf
	err := json.Unmarshal(data, &c)
	var problem *wire.Error
	if err != nil {
		problem = &wire.Error{
			Code: wire.CodeDecodingFailure,
			Msg:  fmt.Sprintf("the network configuration on standard input cannot be decoded: %v", err),
		}
	}
	if plugin != wire.PluginMeta {
		// The others may stand in a network definition, and an IPAM plugin is
		// given the configuration of the plugin that calls it: macvlan has a mode
		// of its own, and whoever wrote a definition must not choose the host's
		// paths.
		c = conf{CNIVersion: c.CNIVersion}
	}
	return c, problem
}

// version is what answers are printed in.
func (c conf) version() string {
	supported := wire.SupportedVersions()
	if slices.Contains(supported, c.CNIVersion) {
		return c.CNIVersion
	}
	return supported[len(supported)-1]
}

// socket is the daemon's; the environment wins, for a delegate is called with
// another configuration than the plugin was.
func (p plugin) socket(c conf) string {
	if s := p.getenv(wire.SocketEnv); s != "" {
		return s
	}
	if c.Socket != "" {
		return c.Socket
	}
	return wire.DefaultSocket
}

func (c conf) spool() wire.Spool {
	dir := c.StateDir
	if dir == "" {
		dir = defaultStateDir
	}
	return wire.Spool{Dir: filepath.Join(dir, "spool")}
}
