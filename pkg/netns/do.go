package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread inside the namespace: for what netlink can't do, such
// as reading /proc/sys/net or opening other sockets. f must not start
// goroutines that need the namespace: they run elsewhere.
func (h *Handle) Do(f func() error) error {
	fd := int(h.file.Fd())
	return onSpareThread(func() (bool, error) { return within(fd, f) })
}

// onSpareThread runs f on an operating system thread that is not the main one:
// /proc/self shows the main thread's namespace, and it can't be ended. f says
// whether the thread may be used for other work afterwards; if not, it ends
// with its goroutine.
func onSpareThread(f func() (reusable bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine (runtime.Goexit)")
		defer func() { done <- err }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the main thread, another gets another.
			err = onSpareThread(f)
			runtime.UnlockOSThread()
			return
		}
		reusable, failure := f()
		if reusable {
			runtime.UnlockOSThread()
		}
		err = failure
	}()
	return <-done
}

// within switches the current thread to the namespace, runs f, and switches
// back; the thread is reusable only when it is back.
func within(fd int, f func() error) (reusable bool, err error) {
	former, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("open the current network namespace: %w", err)
	}
	defer func() { err = errors.Join(err, former.Close()) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("enter the network namespace: %w", err)
	}
	err = f()
	// A thread that can't go back is given up, which is no failure of f.
	return unix.Setns(int(former.Fd()), unix.CLONE_NEWNET) == nil, err
}
