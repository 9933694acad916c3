package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/confgen"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/kube"
	"github.com/meta-cni/meta-cni/pkg/objects"
	"github.com/meta-cni/meta-cni/pkg/publish"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// thinLockWait is how long a thin request waits for another one that works on
// the same container.
const thinLockWait = 15 * time.Second

// Oneshot answers one request without a daemon ("mode": "thin"): the frame is
// on in, the reply goes to out. Thin requests for one container run one after
// the other; beside a daemon they are refused.
func Oneshot(ctx context.Context, in io.Reader, out io.Writer, log *slog.Logger) error {
	var req wire.Request
	if err := wire.ReadFrame(in, &req); err != nil {
		return fmt.Errorf("request on standard input: %w", err)
	}
	replied := false
	err := oneshot(ctx, &req, func(r *wire.Reply) error {
		replied = true
		return wire.WriteFrame(out, r)
	}, log)
	if err == nil || replied {
		return err
	}
	return wire.WriteFrame(out, failure(nil, err))
}

func oneshot(ctx context.Context, req *wire.Request, reply func(*wire.Reply) error, log *slog.Logger) error {
	cfg, pin, err := thinConfig(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, config.AddBudget)
	defer cancel()
	container := req.ContainerID
	lock, err := lockThin(ctx, cfg, req.Command, container)
	if err != nil {
		return invalid(wire.CodeTryAgainLater, err)
	}
	if req.Command == "STATUS" {
		container = "-" // no container's ID: nothing is read
	}
	j, damaged, err := openJournal(cfg, container, log)
	if err != nil {
		return errors.Join(err, lock.Release())
	}
	err = answerThin(ctx, cfg, pin, j, damaged, req, reply, log)
	return errors.Join(err, j.Close(), lock.Release())
}

func lockThin(ctx context.Context, cfg config.Daemon, command, container string) (*Lock, error) {
	if command == "STATUS" {
		return noDaemon(ctx, cfg.StateDir)
	}
	ctx, cancel := context.WithTimeout(ctx, thinLockWait)
	defer cancel()
	return lockForThin(ctx, cfg.StateDir, container)
}

// thinConfig makes the daemon's configuration of the plugin's.
func thinConfig(req *wire.Request) (config.Daemon, confgen.Pin, error) {
	conf, err := config.ParseNetConf(req.Config)
	if err != nil {
		return config.Daemon{}, confgen.Pin{}, invalid(wire.CodeDecodingFailure, err)
	}
	cfg, err := config.ParseDaemon(nil)
	if err != nil {
		return config.Daemon{}, confgen.Pin{}, err
	}
	cfg.Mode = config.Standalone
	if conf.Kubeconfig != "" {
		cfg.Mode, cfg.Kubernetes.Kubeconfig = config.Kubernetes, conf.Kubeconfig
	}
	for _, set := range []struct {
		key   *string
		value string
	}{
		{&cfg.StateDir, conf.StateDir},
		{&cfg.ConfDir, conf.ConfDir},
		{&cfg.ObjectsDir, conf.ObjectsDir},
		{&cfg.NodeName, conf.NodeName},
		{&cfg.IPAM.PoolsDir, conf.ObjectsDir},
	} {
		if set.value != "" {
			*set.key = set.value
		}
	}
	cfg.IPAM.Dir = filepath.Join(cfg.StateDir, "addresses")
	if conf.IPAMDir != "" {
		cfg.IPAM.Dir = conf.IPAMDir
	}
	cfg.IPAM.FlatFile = filepath.Join(cfg.ConfDir, "whereabouts.d", "whereabouts.conf")
	if cfg.NodeName == "" {
		if cfg.NodeName, err = os.Hostname(); err != nil {
			return config.Daemon{}, confgen.Pin{}, fmt.Errorf("the host's name is unknown: give nodeName: %w", err)
		}
	}
	cfg.NetworkDirs = conf.NetworkDirs
	if len(cfg.NetworkDirs) == 0 {
		cfg.NetworkDirs = []string{cfg.ConfDir}
	}
	return cfg, confgen.Pin{File: conf.Primary}, nil
}

func answerThin(ctx context.Context, cfg config.Daemon, pin confgen.Pin, j *journal.Journal, damaged []journal.Damaged,
	req *wire.Request, reply func(*wire.Reply) error, log *slog.Logger,
) error {
	definitions, publisher, client, err := thinStores(cfg, log)
	if err != nil {
		return err
	}
	dir, err := thinFolder(cfg.RunDir)
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, socketName)
	primary, primaryErr := confgen.ReadPrimary(cfg.ConfDir, pin)
	d := New(Options{
		Config: cfg, Definitions: definitions, Primary: fixed{primary, primaryErr}, Publisher: publisher,
		Journal: j, Runner: newRunner(cfg, log, socket), Log: log,
	})
	d.opts.Callbacks = (&lateAddressing{d: d, cfg: cfg, client: client}).delegates()
	listener, err := wire.Listen(socket)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	server := &wire.Server{Handler: wire.HandlerFunc(d.handleCallback), Log: log}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	d.Recover(ctx, damaged)(ctx)
	d.Handle(ctx, req, reply)
	flush, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := publisher.Flush(flush); err != nil {
		log.Warn("network-status or Events were not written", "error", err.Error())
	}
	return errors.Join(server.Shutdown(ctx), <-served, os.RemoveAll(dir))
}

// thinFolder is for the socket by which delegates call back.
func thinFolder(runDir string) (string, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return "", err
	}
	if err := removeDeadThin(runDir); err != nil {
		return "", err
	}
	return os.MkdirTemp(runDir, fmt.Sprintf("thin-%d-", os.Getpid()))
}

// removeDeadThin removes the folders of thin calls that were killed.
func removeDeadThin(runDir string) error {
	folders, err := filepath.Glob(filepath.Join(runDir, "thin-*"))
	if err != nil {
		return err
	}
	for _, folder := range folders {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(folder), "thin-%d-", &pid); err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return nil
}

func thinStores(cfg config.Daemon, log *slog.Logger) (Definitions, *publish.Publisher, *kube.Client, error) {
	if cfg.Mode == config.Standalone {
		store, err := objects.Open(cfg.ObjectsDir, log)
		return store, publish.New(publish.Options{Log: log}), nil, err
	}
	client, err := newClient(cfg, log)
	if err != nil {
		return nil, nil, nil, err
	}
	cache := kube.NewCache(client, kube.CacheOptions{StateDir: cfg.StateDir, Log: log})
	return cache, publish.New(publish.Options{API: clusterAPI{client}, Gone: attach.ErrPodGone, Log: log}), client, nil
}

// fixed is a primary network that was read once.
type fixed struct {
	primary attach.Primary
	err     error
}

func (f fixed) Primary() (attach.Primary, error) { return f.primary, f.err }
func (f fixed) Ready() error                     { return f.err }
