package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// maxSocketPath is what fits sockaddr_un with its final zero (unix(7)).
const maxSocketPath = 107

// stream is the client's end of a unix socket. It blocks in the system call,
// with the socket's own time-outs: the net package, or timers and the poller
// behind them, would cost the plugin, which makes one call and ends, a fifth of
// its time.
type stream struct {
	fd  int
	ctx context.Context // io.Reader and io.Writer take none
	// until ends each Read and Write; the zero time is no end.
	until time.Time
	close func()
}

// connect opens a stream to the socket at path. What it waits for ends at
// until, and with ctx.
func connect(ctx context.Context, until time.Time, path string) (*stream, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("path of %d bytes, the kernel takes %d: %w", len(path), maxSocketPath, syscall.ENAMETOOLONG)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &stream{fd: fd, ctx: ctx, until: until}
	// It waits while the backlog is full (connect(2), SO_SNDTIMEO).
	_, err = c.timed(syscall.SO_SNDTIMEO, func() (int, error) {
		return 0, syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
	})
	if err != nil {
		_ = syscall.Close(fd)
		return nil, err
	}
	c.close = c.closer()
	return c, nil
}

// Read is io.Reader's.
func (c *stream) Read(p []byte) (int, error) {
	n, err := c.timed(syscall.SO_RCVTIMEO, func() (int, error) { return syscall.Read(c.fd, p) })
	if n == 0 && err == nil && len(p) > 0 {
		if err = c.ctx.Err(); err == nil { // else closer shut it
			err = io.EOF
		}
	}
	return max(n, 0), err
}

// Write is io.Writer's.
func (c *stream) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := c.timed(syscall.SO_SNDTIMEO, func() (int, error) {
			return syscall.SendmsgN(c.fd, p[done:], nil, nil, syscall.MSG_NOSIGNAL)
		})
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// timed repeats call, which blocks for the time that the socket option sets,
// until it is not interrupted.
func (c *stream) timed(option int, call func() (int, error)) (int, error) {
	for {
		var wait syscall.Timeval // zero: no end
		if !c.until.IsZero() {
			left := time.Until(c.until)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			wait = syscall.NsecToTimeval(int64(max(left, time.Microsecond)))
		}
		if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, option, &wait); err != nil {
			return 0, os.NewSyscallError("setsockopt", err)
		}
		n, err := call()
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return 0, os.ErrDeadlineExceeded
		default:
			return n, err
		}
	}
}

// closer lets the end of ctx end what the stream waits for; the function it
// returns closes the stream.
func (c *stream) closer() func() {
	ended := make(chan struct{})
	stop := context.AfterFunc(c.ctx, func() {
		_ = syscall.Shutdown(c.fd, syscall.SHUT_RDWR)
		close(ended)
	})
	return func() {
		if !stop() {
			<-ended // the number of a closed descriptor may be another's
		}
		_ = syscall.Close(c.fd)
	}
}
