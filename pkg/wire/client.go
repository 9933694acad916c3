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

// Client asks the daemon at Socket.
type Client struct {
	Socket string
	// AcceptBy is when the daemon must have taken the request; when zero,
	// AcceptWait from the call of Do.
	AcceptBy time.Time
	// AnswerBy is when the reply must be there; when zero, ctx alone decides.
	// Unlike a context's, this deadline starts no timer and with it no poller.
	AnswerBy time.Time
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
	if at, ok := ctx.Deadline(); ok {
		cl.AnswerBy = earlier(cl.AnswerBy, at)
	}
	c, err := connect(ctx, earlier(cl.AnswerBy, cl.AcceptBy), cl.Socket)
	if err != nil {
		return nil, cl.failed(err, "connect", ErrNoDaemon)
	}
	defer c.close()
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
	c.until = cl.AnswerBy
	if payload, err = readPayload(c); err != nil {
		return nil, cl.failed(err, "wait for the answer", ErrInterrupted)
	}
	return cl.reply(payload)
}

// earlier is the earlier of two deadlines; the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
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

// peerClosed says that the server closed while we wrote; it may have left a
// refusal to be read.
func peerClosed(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
