// Package wire is the one conversation between the plugin and the daemon: a
// Request in, a Reply out, over a unix stream socket, and the spool on disk
// for a DEL that found no daemon.
//
// It is linked into the plugin, which starts once for every CNI verb, so it
// imports the standard library only and the client's half does without the
// net package. It knows nothing of pods or networks.
//
// Invariant: a message arrives whole or not at all, and the client can tell
// "nobody took my request" (safe to ask again) from "it was taken and the
// answer is missing".
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ProtocolVersion is what this package speaks; messages carry it so that a
// plugin and a daemon of neighbouring releases understand each other.
const ProtocolVersion = 1

// DefaultSocket is the path of the daemon's socket.
const DefaultSocket = "/run/meta-cni/meta-cni.sock"

// SocketEnv is the environment variable that names another socket; the daemon
// sets it for delegates that call back.
const SocketEnv = "META_CNI_SOCKET"

// CNI error codes: below 100 they are the specification's (1.1.0, section 5).
const (
	CodeIncompatibleVersion uint = 1
	CodeUnsupportedField    uint = 2
	CodeUnknownContainer    uint = 3
	CodeInvalidEnvironment  uint = 4
	CodeIOFailure           uint = 5
	CodeDecodingFailure     uint = 6
	CodeInvalidConfig       uint = 7
	CodeTryAgainLater       uint = 11
	CodeNotAvailable        uint = 50
	CodeLimitedConnectivity uint = 51
	CodeInternal            uint = 999
)

// Names under which the plugin is called; the name selects what it does.
const (
	PluginMeta        = "meta-cni"
	PluginRouted      = "meta-routed"
	PluginVXLAN       = "meta-vxlan"
	PluginIPAM        = "meta-ipam"
	PluginWhereabouts = "whereabouts"
)

// Request is one call of the plugin as the runtime made it.
type Request struct {
	Version int `json:"version"`
	// Plugin is the base name of argv[0], one of the Plugin constants.
	Plugin string `json:"plugin"`
	// Command to Path are CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME,
	// CNI_ARGS and CNI_PATH as they came.
	Command     string `json:"command"`
	ContainerID string `json:"containerID,omitempty"`
	Netns       string `json:"netns,omitempty"`
	IfName      string `json:"ifName,omitempty"`
	Args        string `json:"args,omitempty"`
	Path        string `json:"path,omitempty"`
	// Trace holds TRACEPARENT, TRACESTATE and BAGGAGE, those that were set.
	Trace map[string]string `json:"trace,omitempty"`
	// Config is standard input as it came; it need not be valid JSON.
	Config []byte `json:"config,omitempty"`
}

// Reply is the daemon's answer: Error, or else Result, which is empty for the
// verbs that print nothing.
type Reply struct {
	Version int             `json:"version"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *Error          `json:"error,omitempty"`
}

// Error is a CNI error as it is printed on standard output (specification
// 1.1.0, section 5).
type Error struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

// Error is the message with its details and code on one line.
func (e *Error) Error() string {
	text := e.Msg
	if e.Details != "" {
		text += "; " + e.Details
	}
	return fmt.Sprintf("%s (code %d)", text, e.Code)
}

// What Do and the server report; tested with errors.Is.
var (
	// ErrNoDaemon: nobody took the request, so it may be sent again.
	ErrNoDaemon = errors.New("no daemon answers")
	// ErrNotPermitted: the socket refuses this user.
	ErrNotPermitted = errors.New("not permitted on the daemon's socket")
	// ErrTimeout: the daemon did not take the request or did not answer in time.
	ErrTimeout = errors.New("the daemon did not answer in time")
	// ErrInterrupted: the daemon took the request and went away unanswered.
	ErrInterrupted = errors.New("the daemon ended before it answered")
	// ErrPeerGone is the cause in the handler's context when the plugin that
	// asked is gone, and what reply returns then.
	ErrPeerGone = errors.New("the plugin that asked is gone")
	// ErrServerClosed is the cause in the handler's context when Shutdown ran
	// out of time.
	ErrServerClosed = errors.New("the server is stopping")
	// ErrFrameTooLarge: a message exceeds MaxFrame.
	ErrFrameTooLarge = errors.New("message exceeds 1 MiB")
)

// valid refuses what JSON would change silently: text that is not UTF-8 comes
// out with replacement characters, a different path or ID than went in.
func (r *Request) valid() error {
	fields := []struct{ name, value string }{
		{"the plugin's name", r.Plugin},
		{"CNI_COMMAND", r.Command},
		{"CNI_CONTAINERID", r.ContainerID},
		{"CNI_NETNS", r.Netns},
		{"CNI_IFNAME", r.IfName},
		{"CNI_ARGS", r.Args},
		{"CNI_PATH", r.Path},
	}
	for _, f := range fields {
		if !utf8.ValidString(f.value) {
			return fmt.Errorf("%s %q is not UTF-8", f.name, f.value)
		}
	}
	for name, value := range r.Trace {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return fmt.Errorf("trace variable %q is not UTF-8", name)
		}
	}
	return nil
}
