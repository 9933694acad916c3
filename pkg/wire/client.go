package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// AcceptWait is how long Do waits for the daemon to take a request. A daemon
// that is stopped or stuck still has a socket that connects; this tells it
// from one that works.
const AcceptWait = 5 * time.Second

// maxSocketPath is what fits sockaddr_un with its final zero (unix(7)).
const maxSocketPath = 107

// Do sends req to the daemon at socket and returns its reply. ctx bounds the
// whole call; the connection ends with it, which cancels the daemon's work.
// The error is one of ErrNoDaemon, ErrNotPermitted, ErrTimeout and
// ErrInterrupted, with the path and the system's error, or says what is wrong
// with req.
func Do(ctx context.Context, socket string, req *Request) (*Reply, error) {
	frame, err := encode(req)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	c, err := connect(ctx, socket)
	if err != nil {
		return nil, dialError(socket, err)
	}
	defer c.Close() //nolint:errcheck // nothing was buffered
	end := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer end()
	if err := c.SetWriteDeadline(time.Now().Add(AcceptWait)); err != nil {
		return nil, fmt.Errorf("socket %s: %w", socket, err)
	}
	if _, err := c.Write(frame); err != nil && !peerClosed(err) {
		return nil, talkError(socket, "send the request", err, ErrNoDaemon)
	}
	reply, accepted, err := readReply(ctx, c)
	if err != nil && accepted {
		return nil, talkError(socket, "wait for the answer", err, ErrInterrupted)
	}
	if err != nil {
		return nil, talkError(socket, "wait for the request to be taken", err, ErrNoDaemon)
	}
	return reply, nil
}

// readReply reads the empty frame by which the server takes a request, and
// then the reply; a refusal comes without the first.
func readReply(ctx context.Context, c *os.File) (reply *Reply, accepted bool, err error) {
	if err := setReadDeadline(ctx, c, time.Now().Add(AcceptWait)); err != nil {
		return nil, false, err
	}
	payload, err := readPayload(c)
	if err != nil {
		return nil, false, err
	}
	if len(payload) == 0 {
		accepted = true
		if err := setReadDeadline(ctx, c, time.Time{}); err != nil {
			return nil, accepted, err
		}
		if payload, err = readPayload(c); err != nil {
			return nil, accepted, err
		}
	}
	reply, err = decodeReply(payload)
	return reply, true, err
}

// setReadDeadline sets the earlier of at and the end of ctx. The zero time is
// no deadline.
func setReadDeadline(ctx context.Context, c *os.File, at time.Time) error {
	if d, ok := ctx.Deadline(); ok && (at.IsZero() || d.Before(at)) {
		at = d
	}
	if err := c.SetReadDeadline(at); err != nil {
		return err
	}
	if ctx.Err() != nil { // ended between AfterFunc's deadline and ours
		return context.Cause(ctx)
	}
	return nil
}

// connect opens a stream to the socket at path without the net package, whose
// start-up and size the plugin would pay on each call.
func connect(ctx context.Context, path string) (*os.File, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("path of %d bytes, the kernel takes %d: %w", len(path), maxSocketPath, syscall.ENAMETOOLONG)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	for {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR) {
			break
		}
		// EAGAIN: the backlog is full (connect(2), unix domain sockets); no
		// event tells when it is not.
		if err = sleep(ctx, 5*time.Millisecond); err != nil {
			break
		}
	}
	_ = syscall.Close(fd)
	return nil, err
}

// sleep waits d, or returns why ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dialError sorts what connect returned.
func dialError(socket string, err error) error {
	kind := ErrNoDaemon
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		kind = ErrNotPermitted
	case isTimeout(err):
		kind = ErrTimeout
	}
	return fmt.Errorf("socket %s: uid %d: %w: connect: %w", socket, os.Geteuid(), kind, err)
}

// talkError sorts what happened on a connection; gone is what it means that
// the daemon closed it.
func talkError(socket, doing string, err, gone error) error {
	kind := gone
	if isTimeout(err) {
		kind = ErrTimeout
	}
	return fmt.Errorf("socket %s: uid %d: %w: %s: %w", socket, os.Geteuid(), kind, doing, err)
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// peerClosed says that the server closed while we wrote; it may have left a
// refusal to be read.
func peerClosed(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
