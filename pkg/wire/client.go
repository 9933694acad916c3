package wire

import (
	"context"
	"encoding/json"
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

// Client asks the daemon at Socket.
type Client struct {
	Socket string
	// AcceptBy is when the daemon must have taken the request; when zero,
	// AcceptWait from the call of Do.
	AcceptBy time.Time
}

// Do is Client.Do with AcceptWait.
func Do(ctx context.Context, socket string, req *Request) (*Reply, error) {
	return Client{Socket: socket}.Do(ctx, req)
}

// Do sends req and returns the daemon's reply. ctx bounds the whole call; the
// connection ends with it, which cancels the daemon's work. The error is one of
// ErrNoDaemon, ErrNotPermitted, ErrTimeout and ErrInterrupted, with the path
// and the system's error, or says what is wrong with req.
func (cl Client) Do(ctx context.Context, req *Request) (*Reply, error) {
	frame, err := encode(req)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if cl.AcceptBy.IsZero() {
		cl.AcceptBy = time.Now().Add(AcceptWait)
	}
	taking, cancel := context.WithDeadline(ctx, cl.AcceptBy)
	defer cancel()
	c, err := connect(taking, cl.Socket)
	if err != nil {
		return nil, cl.failed(err, "connect", ErrNoDaemon)
	}
	defer c.Close() //nolint:errcheck // nothing was buffered
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := setDeadline(taking, c); err != nil {
		return nil, cl.failed(err, "send the request", ErrNoDaemon)
	}
	if _, err := c.Write(frame); err != nil && !peerClosed(err) {
		return nil, cl.failed(err, "send the request", ErrNoDaemon)
	}
	payload, err := readPayload(c)
	if err != nil {
		return nil, cl.failed(err, "wait for the request to be taken", ErrNoDaemon)
	}
	if len(payload) > 0 { // a refusal comes without the empty frame that takes a request
		return cl.reply(payload)
	}
	if err := setDeadline(ctx, c); err != nil {
		return nil, cl.failed(err, "wait for the answer", ErrInterrupted)
	}
	if payload, err = readPayload(c); err != nil {
		return nil, cl.failed(err, "wait for the answer", ErrInterrupted)
	}
	return cl.reply(payload)
}

func (cl Client) reply(payload []byte) (*Reply, error) {
	reply := new(Reply)
	if err := json.Unmarshal(payload, reply); err != nil {
		return nil, cl.failed(err, "read the answer", ErrInterrupted)
	}
	return reply, nil
}

// failed names the socket and sorts err; closed is what it means that the
// other side is not there.
func (cl Client) failed(err error, doing string, closed error) error {
	kind := closed
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		kind = ErrNotPermitted
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		kind = ErrTimeout
	}
	return fmt.Errorf("socket %s: uid %d: %w: %s: %w", cl.Socket, os.Geteuid(), kind, doing, err)
}

// setDeadline lets c end with ctx; the error is that it ended already.
func setDeadline(ctx context.Context, c *os.File) error {
	at, _ := ctx.Deadline() // else the zero time: none
	if err := c.SetDeadline(at); err != nil {
		return err
	}
	return ctx.Err() // it may have ended before the deadline replaced that of AfterFunc
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

// peerClosed says that the server closed while we wrote; it may have left a
// refusal to be read.
func peerClosed(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
