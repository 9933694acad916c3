package daemon

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// request is a wire.Request after parsing, with what is learned on the way for
// its one log line.
type request struct {
	*wire.Request
	conf config.NetConf
	args [][2]string
	key  attach.Key
	pod  attach.Pod
	path []string
	// spooled is the spool's entry that the request is, if it is one.
	spooled *wire.Entry

	networks []string
	mu       sync.Mutex
	phases   []phase
}

type phase struct {
	name string
	took time.Duration
}

// parse reads the request's parts. DEL must work with whatever is left of
// them, so for DEL only a bad key is an error.
func (d *Daemon) parse(req *wire.Request) (*request, error) {
	r := &request{Request: req, key: attach.Key{ContainerID: req.ContainerID, IfName: req.IfName}}
	if err := d.parseParts(r); err != nil && req.Command != "DEL" {
		return nil, err
	}
	r.pod = config.PodFromArgs(r.args)
	r.path = searchPath(req.Path, d.opts.Config.BinDirs)
	if req.Command == "STATUS" || req.Command == "GC" {
		return r, nil
	}
	if err := r.key.Validate(); err != nil {
		return nil, invalid(wire.CodeInvalidEnvironment, err)
	}
	return r, nil
}

func (d *Daemon) parseParts(r *request) error {
	var err error
	if r.conf, err = config.ParseNetConf(r.Config); err != nil {
		return invalid(wire.CodeDecodingFailure, err)
	}
	if r.args, err = config.ParseArgs(r.Args); err != nil {
		return invalid(wire.CodeInvalidEnvironment, err)
	}
	return nil
}

// searchPath is the runtime's CNI_PATH and then the daemon's own folders.
func searchPath(cniPath string, binDirs []string) []string {
	var path []string
	for _, dir := range slices.Concat(filepath.SplitList(cniPath), binDirs) {
		if dir = strings.TrimSpace(dir); filepath.IsAbs(dir) && !slices.Contains(path, filepath.Clean(dir)) {
			path = append(path, filepath.Clean(dir))
		}
	}
	return path
}

// timing notes how long a phase took; delegates' phases may come from several
// goroutines.
func (r *request) timing(name string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phases = append(r.phases, phase{name, took})
}

// since notes a phase that began at start and ends now.
func (r *request) since(name string, start time.Time) { r.timing(name, time.Since(start)) }
