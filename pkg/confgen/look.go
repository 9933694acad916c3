package confgen

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// look makes one pass: read the folder, decide on the primary, put our file in
// place. It returns how long to wait until the next one if no event comes.
func (g *Generator) look(now time.Time) time.Duration {
	g.pass.Lock()
	defer g.pass.Unlock()
	if !g.own.started {
		g.start()
	}
	files, err := readDir(g.opts.Dir)
	choice, chooseErr := Choose(files, g.opts.Pin)
	if err != nil {
		chooseErr = fmt.Errorf("%w: %w", ErrNoPrimary, err)
	}
	settled := g.decide(choice, chooseErr, now)
	if err != nil {
		g.setConf(err)
		return g.opts.RetryInterval
	}
	g.reportShadow(files)
	switch due, err := g.keep(now); {
	case err != nil:
		return g.opts.RetryInterval
	case due > 0:
		return due
	case !settled:
		return g.opts.RetryInterval
	default:
		return g.opts.SlowInterval
	}
}

func (g *Generator) setConf(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conf = err
}

// start removes what a killed run left and learns which primary it had.
func (g *Generator) start() {
	g.own.started = true
	if err := removeTemps(g.opts.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.log.Warn("leftover temporary files stay", "error", err)
	}
	var conf struct {
		Primary string `json:"primary"`
	}
	if data, err := readRegular(g.own.path); err == nil && json.Unmarshal(data, &conf) == nil {
		g.recorded = conf.Primary
	}
}

// decide takes the choice or keeps the last good one; settled is false when a
// later look may decide otherwise although no file changes.
func (g *Generator) decide(c Choice, err error, now time.Time) (settled bool) {
	if g.current == nil {
		return g.decideFirst(c, err, now)
	}
	why, broken := c.isBroken(g.current.File)
	takeable := err == nil && (!broken || g.lostFor(now) >= g.opts.Grace)
	if takeable {
		g.adopt(c)
		return true
	}
	if why == "" && err != nil {
		why = err.Error()
	}
	g.lose(broken, why, now)
	return false
}

// decideFirst waits for a better ranked file that is half written, unless the
// choice is the one that an earlier run had made.
func (g *Generator) decideFirst(c Choice, err error, now time.Time) bool {
	if err != nil {
		g.setReason(fmt.Errorf("in %s: %w", g.opts.Dir, err))
		return false
	}
	if c.anyBroken() && c.File != g.recorded {
		if g.waiting.IsZero() {
			g.waiting = now
		}
		if now.Sub(g.waiting) < g.opts.Settle {
			g.setReason(fmt.Errorf("%w yet: in %s a file that sorts before %s may be half written: %s",
				ErrNoPrimary, g.opts.Dir, c.File, joinPassed(c.Passed)))
			return false
		}
	}
	g.adopt(c)
	return true
}

func (g *Generator) setReason(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reason == nil || g.reason.Error() != err.Error() {
		g.log.Warn("no cluster network", "error", err)
	}
	g.reason = err
}

func (g *Generator) lostFor(now time.Time) time.Duration {
	if g.lost.since.IsZero() {
		return 0
	}
	return now.Sub(g.lost.since)
}

// adopt makes the choice the last good one.
func (g *Generator) adopt(c Choice) {
	g.mu.Lock()
	old := g.current
	g.current, g.lost, g.reason = &c, lost{}, nil
	g.mu.Unlock()
	g.waiting = time.Time{}
	if old != nil && old.File == c.File && old.Network == c.Network {
		return
	}
	text := ""
	if len(c.Passed) > 0 {
		text = "; passed over: " + joinPassed(c.Passed)
	}
	g.notify(PrimaryChosen, "the cluster network is %q of %s%s", c.Network, filepath.Join(g.opts.Dir, c.File), text)
}

// lose notes that the current primary's file is no longer good.
func (g *Generator) lose(broken bool, why string, now time.Time) {
	g.mu.Lock()
	l := g.lost
	if l.since.IsZero() || l.broken != broken {
		l = lost{since: now, broken: broken}
	}
	l.why = why
	g.lost = l
	tell := !l.told && (broken || g.gone(now))
	if tell {
		g.lost.told = true
	}
	file := g.current.File
	g.mu.Unlock()
	switch {
	case tell && broken:
		g.notify(PrimaryBroken, "%s in %s is not valid any more (%s); its last valid content stays in use until it is whole again",
			file, g.opts.Dir, why)
	case tell:
		g.notify(PrimaryGone, "%s has been gone from %s for %s: new pods get no network until it is back; hint: is the primary network's agent running?",
			file, g.opts.Dir, g.opts.Grace)
	}
}

// reportShadow names the files that runtimes load instead of ours.
func (g *Generator) reportShadow(files []File) {
	first := ""
	for _, f := range files {
		if f.Name < ConfName {
			first = f.Name
			break
		}
	}
	if first == g.shadowed {
		return
	}
	g.shadowed = first
	if first != "" {
		g.notify(ConfShadowed, "%s sorts before %s in %s, so the runtime loads it instead and pods get no further networks; hint: rename it, such as to 10-%s",
			first, ConfName, g.opts.Dir, first)
	}
}
