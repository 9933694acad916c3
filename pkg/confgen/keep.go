package confgen

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ownFile is what we know of 00-meta.conf.
type ownFile struct {
	path    string
	started bool
	// written is what this run last saw in place; nil before the first time.
	written []byte
	// folder is the configuration folder that it was in.
	folder os.FileInfo
	fights fights
}

// keep puts 00-meta.conf in place if bytes or mode differ. due is when to look
// again because something else keeps changing it.
func (g *Generator) keep(now time.Time) (due time.Duration, err error) {
	if g.current == nil {
		return 0, nil
	}
	want, err := Generate(*g.current, g.opts.Settings)
	if err == nil {
		due, err = g.put(want, now)
	}
	if err == nil && due == 0 || isWhole(g.own.path) {
		g.setConf(nil)
	} else {
		g.setConf(fmt.Errorf("%s is not in place: %w", g.own.path, errors.Join(err, g.own.fights.err())))
	}
	return due, err
}

func (g *Generator) put(want []byte, now time.Time) (due time.Duration, err error) {
	damage := inspect(g.own.path, want)
	if damage == "" {
		g.own.written = want
		g.own.folder, _ = os.Stat(g.opts.Dir)
		g.writeFail = ""
		return 0, nil
	}
	if bytes.Equal(g.own.written, want) && g.sameFolder() {
		if due := g.own.fights.wait(now); due > 0 {
			return due, nil
		}
		g.fight(damage, now)
	}
	if err := replace(g.opts.Dir, want); err != nil {
		g.reportWrite(err)
		return 0, err
	}
	g.log.Info("configuration written", "file", g.own.path, "was", damage, "primary", g.current.File)
	g.own.written = want
	g.own.folder, _ = os.Stat(g.opts.Dir)
	g.writeFail = ""
	return 0, nil
}

// sameFolder is false after the folder was made again: then our file is gone
// with it, and nobody fights us.
func (g *Generator) sameFolder() bool {
	info, err := os.Stat(g.opts.Dir)
	return err == nil && g.own.folder != nil && os.SameFile(info, g.own.folder)
}

func (g *Generator) reportWrite(err error) {
	if g.writeFail == err.Error() {
		return
	}
	g.writeFail = err.Error()
	g.notify(ConfWriteFailed, "%s; what is there stays; trying again every %s", err, g.opts.RetryInterval)
}

// inspect says in words how the file differs from what is wanted, or "".
func inspect(path string, want []byte) string {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "absent"
	case err != nil:
		return err.Error()
	case !info.Mode().IsRegular():
		return "not a regular file"
	}
	data, err := readRegular(path)
	switch {
	case err != nil:
		return err.Error()
	case len(data) == 0:
		return "empty"
	case !bytes.Equal(data, want):
		return "different"
	case info.Mode().Perm() != 0o600:
		return fmt.Sprintf("mode %04o", info.Mode().Perm())
	default:
		return ""
	}
}

// isWhole tells whether a valid 00-meta.conf is there, be it an older one.
func isWhole(path string) bool {
	data, err := readRegular(path)
	if err != nil {
		return false
	}
	n, err := parse(File{Name: ConfName, Data: data})
	return err == nil && meta(n.types) != ""
}

// fights bounds how often we undo what somebody else does to our file.
type fights struct {
	recent []time.Time
	until  time.Time
	told   bool
	with   string
}

const (
	fightWindow = time.Minute
	fightLimit  = 3
	fightMax    = 30 * time.Second
)

// wait is how long to leave the file to the other.
func (f *fights) wait(now time.Time) time.Duration { return max(f.until.Sub(now), 0) }

// add notes a repair; many is true when the limit is reached.
func (f *fights) add(now time.Time) (many bool) {
	keep := f.recent[:0]
	for _, t := range f.recent {
		if now.Sub(t) < fightWindow {
			keep = append(keep, t)
		}
	}
	f.recent = append(keep, now)
	n := len(f.recent) - fightLimit
	if n < 0 {
		f.told = false
		return false
	}
	f.until = now.Add(min(time.Second<<min(n, 10), fightMax))
	return true
}

func (f *fights) err() error {
	if f.with == "" {
		return nil
	}
	return errors.New(f.with)
}

// fight notes that our file was changed and tells it when it happens often.
func (g *Generator) fight(damage string, now time.Time) {
	rival := leftover(g.opts.Dir)
	f := &g.own.fights
	f.with = fmt.Sprintf("something else changes %s (%s%s)", g.own.path, damage, rival)
	g.log.Warn("our configuration was changed by something else and is put back", "file", g.own.path, "found", damage+rival)
	if !f.add(now) || f.told {
		return
	}
	f.told = true
	g.notify(ConfFight, "%s was changed %d times within a minute by something else (%s%s); it is put back ever more slowly, and meanwhile pods may get no further networks",
		g.own.path, len(f.recent), damage, rival)
}

// leftover names the files that a rival renamed ours to, with the remedy.
func leftover(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var names []string
	hint := ""
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ConfName+".") {
			continue
		}
		names = append(names, e.Name())
		if filepath.Ext(e.Name()) == ".cilium_bak" {
			hint = "; hint: set cni.exclusive=false in Cilium's Helm values"
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ", leftover " + strings.Join(names, ", ") + hint
}
