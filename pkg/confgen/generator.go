package confgen

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// Reasons of a Notice, in the form of Kubernetes Event reasons.
const (
	// PrimaryChosen says which configuration is the primary from now on.
	PrimaryChosen = "PrimaryChosen"
	// PrimaryBroken says that the primary's file is no longer valid, and that
	// the last valid content stays in use.
	PrimaryBroken = "PrimaryBroken"
	// PrimaryGone says that the primary's file has been gone for the grace
	// time.
	PrimaryGone = "PrimaryGone"
	// ConfFight says that something else keeps changing 00-meta.conf.
	ConfFight = "ConfFight"
	// ConfShadowed says that a file sorts before 00-meta.conf, so that runtimes
	// load that one.
	ConfShadowed = "ConfShadowed"
	// ConfWriteFailed says that 00-meta.conf could not be written.
	ConfWriteFailed = "ConfWriteFailed"
)

// Notice is something that an operator should hear of, as an Event.
type Notice struct {
	Reason  string
	Message string
	Warning bool
}

// Options make a Generator; zero durations mean the default.
type Options struct {
	// Dir is the runtime's configuration folder, absolute.
	Dir      string
	Settings Settings
	Pin      Pin
	Log      *slog.Logger
	// Notify gets each Notice once an occurrence, from the goroutine of Run or
	// Sync; it must not block. May be nil.
	Notify func(Notice)
	// RetryInterval is between looks while something is unsettled (1 s).
	RetryInterval time.Duration
	// SlowInterval is between looks otherwise, because file events get lost
	// (30 s).
	SlowInterval time.Duration
	// Grace is how long the last good primary stands in for a file that is gone
	// or broken before Ready fails or another file is taken (30 s).
	Grace time.Duration
	// Settle is how long a first choice waits for a better ranked file that is
	// half written (5 s).
	Settle time.Duration
}

// Generator keeps 00-meta.conf. Its methods may be called from any goroutine.
type Generator struct {
	opts Options
	log  *slog.Logger

	pass sync.Mutex // one pass at a time

	mu      sync.Mutex // guards what follows
	current *Choice    // the last good one
	lost    lost       // why current's file isn't good any more
	reason  error      // why there is no current
	conf    error      // why 00-meta.conf isn't in place

	// Used by passes only.
	recorded  string    // primary named by the 00-meta.conf found at start
	waiting   time.Time // since when a first choice waits for a better file
	own       ownFile
	shadowed  string
	writeFail string
}

// lost says since when and why the current primary's file is not good.
type lost struct {
	since  time.Time // zero: it is good
	broken bool      // else gone
	why    string
	told   bool
}

// New makes a Generator; it touches no file before Sync or Run.
func New(o Options) *Generator {
	setDefault(&o.RetryInterval, time.Second)
	setDefault(&o.SlowInterval, 30*time.Second)
	setDefault(&o.Grace, 30*time.Second)
	setDefault(&o.Settle, 5*time.Second)
	if o.Notify == nil {
		o.Notify = func(Notice) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Dir = filepath.Clean(o.Dir)
	return &Generator{
		opts:   o,
		log:    o.Log,
		reason: fmt.Errorf("%w: %s has not been read yet", ErrNoPrimary, o.Dir),
		own:    ownFile{path: filepath.Join(o.Dir, ConfName)},
	}
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Primary is the last good cluster network, for the next ADD. The error
// (ErrNoPrimary) says why there never was one.
func (g *Generator) Primary() (attach.Primary, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == nil {
		return attach.Primary{}, g.reason
	}
	return attach.Primary{File: filepath.Join(g.opts.Dir, g.current.File), Config: g.current.Config}, nil
}

// Ready says in words why ADDs can't be expected to work (STATUS 50): there
// is no primary, its file has been gone for the grace time, or 00-meta.conf
// is not in place.
func (g *Generator) Ready() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.current == nil:
		return g.reason
	case g.gone(time.Now()):
		return fmt.Errorf("%w: %s has been gone from %s for %s (%s); hint: is the primary network's agent running?", ErrNoPrimary,
			g.current.File, g.opts.Dir, time.Since(g.lost.since).Round(time.Second), g.lost.why)
	default:
		return g.conf
	}
}

func (g *Generator) gone(now time.Time) bool {
	return !g.lost.since.IsZero() && !g.lost.broken && now.Sub(g.lost.since) >= g.opts.Grace
}

// Sync looks at the folder once and puts 00-meta.conf in place; the error is
// Ready's.
func (g *Generator) Sync() error {
	g.look(time.Now())
	return g.Ready()
}

// Run keeps 00-meta.conf in place until the context ends; it returns nil then
// and leaves the file where it is.
func (g *Generator) Run(ctx context.Context) error {
	w := newWatch(g.opts.Dir, g.log)
	defer w.close()
	for ctx.Err() == nil {
		sub := g.chainedDir()
		watched := w.ensure(sub)
		wait := g.look(time.Now())
		switch {
		case g.chainedDir() != sub:
			continue // watch the new one before reading it
		case !watched:
			wait = min(wait, g.opts.RetryInterval)
		}
		w.next(ctx, wait)
	}
	return nil
}

// chainedDir is the sub-folder whose plugins may belong to the primary.
func (g *Generator) chainedDir() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == nil {
		return ""
	}
	return filepath.Join(g.opts.Dir, g.current.Network)
}

func (g *Generator) notify(reason, format string, args ...any) {
	n := Notice{Reason: reason, Message: fmt.Sprintf(format, args...), Warning: reason != PrimaryChosen}
	level := slog.LevelInfo
	if n.Warning {
		level = slog.LevelWarn
	}
	g.log.Log(context.Background(), level, n.Message, "reason", n.Reason, "dir", g.opts.Dir)
	g.opts.Notify(n)
}
