package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

// request reads the call. The configuration is as good as it could be read,
// also when there is a problem.
func (p plugin) request() (*wire.Request, conf, *wire.Error) {
	req := &wire.Request{
		Version:     wire.ProtocolVersion,
		Plugin:      filepath.Base(p.argv0),
		Command:     p.getenv("CNI_COMMAND"),
		ContainerID: p.getenv("CNI_CONTAINERID"),
		Netns:       p.getenv("CNI_NETNS"),
		IfName:      p.getenv("CNI_IFNAME"),
		Args:        p.getenv("CNI_ARGS"),
		Path:        p.getenv("CNI_PATH"),
		Trace:       p.trace(),
	}
	if problem := checkCall(req); problem != nil {
		return req, conf{}, problem
	}
	var problem *wire.Error
	req.Config, problem = readConfig(p.stdin)
	var c conf
	if problem == nil {
		c, problem = parseConf(req.Plugin, req.Config)
	}
	switch req.Command {
	case "VERSION": // answered whatever the configuration is
		return req, c, nil
	case "DEL": // must reach the daemon or the spool in any case
		problem = nil
	}
	if problem == nil {
		problem = checkEnvironment(req)
	}
	if problem == nil {
		problem = wire.Negotiate(req.Command, c.CNIVersion)
	}
	return req, c, problem
}

// trace picks the variables of W3C Trace Context and Baggage as environment
// variables carry them.
func (p plugin) trace() map[string]string {
	trace := map[string]string{}
	for _, name := range []string{"TRACEPARENT", "TRACESTATE", "BAGGAGE"} {
		if value := p.getenv(name); value != "" {
			trace[name] = value
		}
	}
	return trace
}

// readConfig reads standard input, as much of it as a frame can carry.
func readConfig(stdin io.Reader) ([]byte, *wire.Error) {
	config, err := io.ReadAll(io.LimitReader(stdin, wire.MaxConfig+1))
	if err != nil {
		return nil, &wire.Error{
			Code: wire.CodeIOFailure,
			Msg:  fmt.Sprintf("cannot read the network configuration from standard input: %v", err),
		}
	}
	if len(config) > wire.MaxConfig {
		return nil, &wire.Error{
			Code: wire.CodeDecodingFailure,
			Msg:  fmt.Sprintf("the network configuration on standard input exceeds %d bytes", wire.MaxConfig),
		}
	}
	return config, nil
}

// checkCall refuses names and verbs that nothing is known of.
func checkCall(req *wire.Request) *wire.Error {
	names := []string{wire.PluginMeta, wire.PluginRouted, wire.PluginVXLAN, wire.PluginIPAM, wire.PluginWhereabouts}
	if !slices.Contains(names, req.Plugin) {
		return badEnvironment(fmt.Sprintf("called as %q; this program answers to %s", req.Plugin, strings.Join(names, ", ")))
	}
	const verbs = "ADD, DEL, CHECK, GC, STATUS or VERSION"
	switch req.Command {
	case "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION":
		return nil
	case "":
		return badEnvironment("CNI_COMMAND is not set: this is a CNI plugin, a container runtime calls it with " + verbs)
	}
	return badEnvironment(fmt.Sprintf("CNI_COMMAND %q is unknown: it must be %s", req.Command, verbs))
}

// checkEnvironment holds the variables that each verb requires
// (specification 1.1.0, section 2) and the form of those that name things.
func checkEnvironment(req *wire.Request) *wire.Error {
	var missing []string
	need := func(name, value string) {
		if value == "" {
			missing = append(missing, name)
		}
	}
	switch req.Command {
	case "ADD", "CHECK":
		need("CNI_CONTAINERID", req.ContainerID)
		need("CNI_NETNS", req.Netns)
		need("CNI_IFNAME", req.IfName)
	case "DEL":
		need("CNI_CONTAINERID", req.ContainerID)
		need("CNI_IFNAME", req.IfName)
	}
	if len(missing) > 0 {
		return badEnvironment(fmt.Sprintf("%s needs %s, which the caller did not set", req.Command, strings.Join(missing, ", ")))
	}
	if req.ContainerID != "" && !validContainerID(req.ContainerID) {
		return badEnvironment(fmt.Sprintf("CNI_CONTAINERID %q: must begin with a letter or digit, hold letters, digits and _.- only, and have at most %d", req.ContainerID, maxContainerID))
	}
	if req.IfName != "" && !validIfName(req.IfName) {
		return badEnvironment(fmt.Sprintf("CNI_IFNAME %q: must have 1 to 15 bytes, no space, no / : or %%, ASCII only, and not be . or ..", req.IfName))
	}
	return nil
}

// maxContainerID is the daemon's limit: the ID is part of a file name.
const maxContainerID = 200

// validContainerID is the specification's ^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$, with
// the daemon's limit.
func validContainerID(id string) bool {
	if len(id) > maxContainerID {
		return false
	}
	for i, r := range []byte(id) {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", rune(r))) {
			return false
		}
	}
	return id != ""
}

// validIfName is the daemon's rule, which is a little narrower than the
// kernel's dev_valid_name: a DEL that it refuses must not be spooled.
func validIfName(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == ':' || c == '%' {
			return false
		}
	}
	return name != "" && len(name) <= 15 && name != "." && name != ".."
}

func badEnvironment(msg string) *wire.Error {
	return &wire.Error{Code: wire.CodeInvalidEnvironment, Msg: msg}
}
