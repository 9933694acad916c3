package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupDirs returns the folders by which processes of a world are found: one
// hierarchy is enough. With cgroup v1 that is pids, which every process can
// join without settings; with v2 the only one.
func cgroupDirs(name string) []string {
	if cgroupV2() {
		return []string{filepath.Join(cgroupRoot, prefix, name)}
	}
	return []string{filepath.Join(cgroupRoot, "pids", prefix, name)}
}

func cgroupV2() bool {
	var stat unix.Statfs_t
	return unix.Statfs(cgroupRoot, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// makeCgroup makes a cgroup in every hierarchy: a kubelet refuses a root that
// is missing in one. In cpuset an empty group can hold no process, so the
// parent's processors and memory nodes are copied.
func makeCgroup(name string) error {
	hierarchies := []string{cgroupRoot}
	if !cgroupV2() {
		entries, err := os.ReadDir(cgroupRoot)
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		hierarchies = nil
		for _, e := range entries {
			if e.IsDir() {
				hierarchies = append(hierarchies, filepath.Join(cgroupRoot, e.Name()))
			}
		}
	}
	for _, h := range hierarchies {
		dir := h
		for _, part := range strings.Split(filepath.Join(prefix, name), "/") {
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if err := inherit(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func inherit(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if cgroupV2() {
			break
		}
		value, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), bytes.TrimSpace(value), 0o644); err != nil {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// cgroupPids lists the processes of a cgroup and of those below it.
func cgroupPids(name string) ([]int, error) {
	var pids []int
	for _, root := range cgroupDirs(name) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil // a pod's group that went away meanwhile
			}
			if err != nil || d.Name() != "cgroup.procs" {
				return err
			}
			content, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			for _, field := range strings.Fields(string(content)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// killCgroup kills all processes of a cgroup until none is left.
func killCgroup(ctx context.Context, name string) error {
	return Eventually(ctx, 15*time.Second, func(context.Context) error {
		pids, err := cgroupPids(name)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		return fmt.Errorf("cgroup %s: %d processes still run", name, len(pids))
	})
}
