package confgen

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// maxFile bounds one configuration; real ones have a few KiB.
const maxFile = 1 << 20

// freshFor is how long a broken file counts as being written by somebody, for
// a reader that can't wait and look again.
const freshFor = 5 * time.Second

// ReadPrimary chooses the primary once, for use without a daemon. A better
// ranked file that is broken and younger than 5 s is taken for half written,
// and the error asks to come again.
func ReadPrimary(dir string, pin Pin) (attach.Primary, error) {
	files, err := readDir(dir)
	if err != nil {
		return attach.Primary{}, fmt.Errorf("look for the cluster network: %w", err)
	}
	c, err := Choose(files, pin)
	if err != nil {
		return attach.Primary{}, fmt.Errorf("in %s: %w", dir, err)
	}
	for _, p := range c.Passed {
		info, err := os.Stat(filepath.Join(dir, p.File))
		if p.Broken && err == nil && time.Since(info.ModTime()) < freshFor {
			return attach.Primary{}, fmt.Errorf("in %s: %s; it sorts before %s and may be half written: try again in %s",
				dir, p, c.File, freshFor)
		}
	}
	return attach.Primary{File: filepath.Join(dir, c.File), Config: c.Config}, nil
}

// readDir reads all files that runtimes would load, each with the plugins of
// its sub-folder. A file that can't be read has its Err set.
func readDir(dir string) ([]File, error) {
	names, err := candidates(dir)
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, len(names))
	for _, name := range names {
		f := readFile(dir, name)
		if errors.Is(f.Err, fs.ErrNotExist) {
			continue
		}
		if filepath.Ext(name) == extList {
			f.Chained = readChained(dir, f)
		}
		files = append(files, f)
	}
	return files, nil
}

// candidates lists the names in lexical order.
func candidates(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the configuration folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && isCandidate(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// readChained reads the *.conf of the sub-folder that bears the network's
// name; the name is validated before it becomes a path.
func readChained(dir string, f File) []File {
	obj, err := decodeObject(f.Data)
	if err != nil {
		return nil
	}
	name, err := obj.name()
	if err != nil {
		return nil
	}
	sub := filepath.Join(dir, name)
	names, err := candidates(sub)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return []File{{Name: name, Err: err}}
	}
	var chained []File
	for _, plugin := range names {
		if filepath.Ext(plugin) == extConf {
			c := readFile(sub, plugin)
			c.Name = filepath.Join(name, plugin)
			chained = append(chained, c)
		}
	}
	return chained
}

// readFile reads a regular file of at most maxFile bytes; it doesn't block on
// a pipe or device that somebody put there.
func readFile(dir, name string) File {
	data, err := readRegular(filepath.Join(dir, name))
	return File{Name: name, Data: data, Err: err}
}

func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file (%s)", info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	return data, nil
}
