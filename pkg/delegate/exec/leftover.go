package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meta-cni/meta-cni/pkg/journal"
)

// EndLeftover ends what is still running of a delegate that a former daemon
// had started, and waits until it is gone. A process counts as such only if it
// is in the recorded group and was started for this container, so that a
// number that has been given away again harms nobody.
func EndLeftover(ctx context.Context, containerID string, p journal.Process) error {
	for doubts := 0; ; {
		if errors.Is(syscall.Kill(-p.Group, 0), syscall.ESRCH) {
			return nil
		}
		pids, unsure, err := members(containerID, p)
		if unsure {
			doubts++
		}
		if err != nil || len(pids) == 0 && (!unsure || doubts > maxDoubts) {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end delegate process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("delegate processes %v don't end: %w", pids, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// maxDoubts is how often a process without an environment is looked at again:
// one that is just being replaced by execve(2) has none for a moment.
const maxDoubts = 10

// members are the processes that are certainly meant; unsure says that one
// couldn't be judged now. The kernel gives the number of a group away only
// when nobody is left in it: so as long as its leader is there, even as a
// zombie, the leader's start time speaks for all, and after that the
// environment that members inherit speaks for each.
func members(containerID string, p journal.Process) (pids []int, unsure bool, err error) {
	leader, gone := readStat(p.Group)
	if gone == nil && leader.start != p.StartTime {
		return nil, false, nil
	}
	pids, err = processes(func(pid int, st stat) bool {
		if st.group != p.Group {
			return false
		}
		if gone == nil {
			return true
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		unsure = unsure || err == nil && len(env) == 0
		return err == nil && startedFor(env, containerID)
	})
	return pids, unsure, err
}

// processes lists those that run and are meant.
func processes(meant func(pid int, st stat) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && !st.zombie && meant(pid, st) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// groupRuns says whether a process of the group, other than a zombie, is left.
func groupRuns(group int) bool {
	pids, err := processes(func(_ int, st stat) bool { return st.group == group })
	return err != nil || len(pids) > 0
}

// startedFor looks for the container in an environment.
func startedFor(env []byte, containerID string) bool {
	for pair := range bytes.SplitSeq(env, []byte{0}) {
		if string(pair) == "CNI_CONTAINERID="+containerID {
			return true
		}
	}
	return false
}

type stat struct {
	group  int
	start  uint64
	zombie bool
}

func startTime(pid int) (uint64, error) {
	st, err := readStat(pid)
	return st.start, err
}

// readStat reads the fields 3, 5 and 22 of proc_pid_stat(5); the command name
// in field 2 may hold anything, so fields are counted after its last ')'.
func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	_, rest, ok := strings.Cut(string(data[max(bytes.LastIndexByte(data, ')'), 0):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	group, err := strconv.Atoi(fields[2])
	if err != nil {
		return stat{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return stat{group: group, start: start, zombie: fields[0] == "Z" || fields[0] == "X"}, err
}
