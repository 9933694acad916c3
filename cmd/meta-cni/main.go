// Command meta-cni is the CNI plugin that the runtime calls. It copies its
// environment and standard input into one frame, hands it to the daemon over a
// unix socket and prints the answer; the work is done there. It answers to the
// names meta-cni, meta-routed, meta-vxlan, meta-ipam and whereabouts.
//
// Invariants: standard output carries one CNI result or error and nothing
// else; a DEL that reached nobody is on disk, synced, before it is a success;
// each wait has an end that is shorter than the runtime's patience.
package main

import (
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

func main() {
	p := plugin{
		argv0:   os.Args[0],
		getenv:  os.Getenv,
		stdin:   os.Stdin,
		budgets: defaultBudgets(),
	}
	os.Exit(write(os.Stdout, p.run()))
}

// plugin is one call of the program.
type plugin struct {
	argv0   string
	getenv  func(string) string
	stdin   io.Reader
	budgets budgets
}

// budgets are how long each wait may last.
type budgets struct {
	// taken is for the daemon to take a request, through its restart.
	taken time.Duration
	// takenDel is the same for DEL, which has the spool to fall back on.
	takenDel time.Duration
	// add is the daemon's 100 s for a whole ADD, with undo, up to 3 s to end
	// its last delegate, and a margin so that its own message arrives.
	add time.Duration
	// del is for a DEL that was taken.
	del time.Duration
	// status is for STATUS in all: the daemon answers in 0.1 s, and containerd
	// itself sets no limit.
	status time.Duration
}

func defaultBudgets() budgets {
	return budgets{
		taken:    5 * time.Second,
		takenDel: 2 * time.Second,
		add:      105 * time.Second,
		del:      40 * time.Second,
		status:   2 * time.Second,
	}
}

// run answers the call with what is to be printed.
func (p plugin) run() output {
	req, conf, problem := p.request()
	if problem != nil {
		return failure(conf, problem)
	}
	if req.Command == "VERSION" {
		return version(conf)
	}
	reply, problem := p.ask(req, conf)
	if problem != nil {
		return failure(conf, problem)
	}
	if reply.Error != nil {
		return failure(conf, reply.Error)
	}
	return output{text: reply.Result}
}

// output is standard output and the exit code.
type output struct {
	text []byte
	code int
}

// write prints o and returns the exit code; a result that could not be printed
// is none.
func write(w io.Writer, o output) int {
	if len(o.text) == 0 {
		return o.code
	}
	if _, err := w.Write(append(o.text, '\n')); err != nil {
		return 1
	}
	return o.code
}

// failure is a CNI error in the version of the caller's configuration.
func failure(conf conf, e *wire.Error) output {
	printed := *e
	if printed.CNIVersion == "" {
		printed.CNIVersion = conf.version()
	}
	return output{text: mustMarshal(printed), code: 1}
}

// version is the answer to VERSION (specification 1.1.0, section 2).
func version(conf conf) output {
	return output{text: mustMarshal(struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{conf.version(), wire.SupportedVersions()})}
}

// mustMarshal encodes values of strings and numbers, which cannot fail.
func mustMarshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}
