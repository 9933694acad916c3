package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// writeTimeout is how long a plugin may take to read its answer.
const writeTimeout = 5 * time.Second

// lanes hold one place for each request that runs.
type lanes struct {
	main, del, callback, status chan struct{}
}

func (s *Server) newLanes() lanes {
	n, status := s.MaxConns, s.StatusConns
	if n <= 0 {
		n = 256
	}
	if status <= 0 {
		status = 16
	}
	return lanes{
		main:     make(chan struct{}, n),
		del:      make(chan struct{}, n),
		callback: make(chan struct{}, n),
		status:   make(chan struct{}, status),
	}
}

// total is how many connections may be open: a full house, and as many again
// that send their request or hear that it is busy.
func (l lanes) total() int {
	return 2 * (cap(l.main) + cap(l.del) + cap(l.callback) + cap(l.status))
}

func (l lanes) of(req *Request) chan struct{} {
	switch {
	case req.Command == "STATUS":
		return l.status
	case req.Plugin == PluginIPAM || req.Plugin == PluginWhereabouts:
		return l.callback
	case req.Command == "DEL":
		return l.del
	}
	return l.main
}

// serve handles one connection. crowded shortens the time to send the request,
// so that idle connections don't keep those out that have something to say.
func (s *Server) serve(work context.Context, conn net.Conn, l lanes, crowded bool) {
	defer conn.Close()
	uid, err := peerUID(conn)
	if err != nil || uid != s.UID {
		s.Log.Warn("refused a plugin that is not the permitted user", "uid", uid, "permitted", s.UID, "error", err)
		return
	}
	wait := s.ReadTimeout
	if wait <= 0 {
		wait = 5 * time.Second
	}
	if crowded {
		wait /= 10
	}
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	req := new(Request)
	if err := ReadFrame(conn, req); err != nil {
		s.Log.Warn("no request came from a plugin", "within", wait, "error", err)
		return
	}
	a := &answer{conn: conn}
	if refusal := s.admit(req, l); refusal != nil {
		s.Log.Warn("refused a request", "command", req.Command, "containerID", req.ContainerID, "error", refusal)
		_ = a.send(&Reply{Error: refusal})
		return
	}
	defer func() { <-l.of(req) }()
	if s.isClosing() {
		return // not taken yet, so the plugin asks the next daemon
	}
	s.run(work, req, a)
}

// admit takes a place in the request's lane, or says why not.
func (s *Server) admit(req *Request, l lanes) *Error {
	if req.Version < 1 || req.Version > ProtocolVersion {
		return &Error{
			Code:    CodeTryAgainLater,
			Msg:     fmt.Sprintf("the plugin speaks protocol %d, the daemon up to %d", req.Version, ProtocolVersion),
			Details: "an upgrade is under way, or plugin and daemon of this node are of different releases",
		}
	}
	lane := l.of(req)
	select {
	case lane <- struct{}{}:
		return nil
	default:
		return &Error{
			Code:    CodeTryAgainLater,
			Msg:     fmt.Sprintf("the daemon is busy: %d requests of this kind run", cap(lane)),
			Details: "the runtime tries again",
		}
	}
}

// run calls the handler between the frame that takes the request and the end
// of the connection.
func (s *Server) run(work context.Context, req *Request, a *answer) {
	ctx, cancel := context.WithCancelCause(work)
	defer cancel(nil)
	a.ctx = ctx
	_ = a.conn.SetDeadline(time.Time{})
	if _, err := a.conn.Write(make([]byte, 4)); err != nil {
		s.Log.Info("the plugin was gone before its request was taken", "command", req.Command, "containerID", req.ContainerID)
		return
	}
	watched := make(chan struct{})
	go func() { defer close(watched); watch(a.conn, cancel) }()
	defer func() { _ = a.conn.Close(); <-watched }()
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("panic in a request", "command", req.Command, "containerID", req.ContainerID,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			_ = a.send(internal(fmt.Sprintf("panic: %v", p)))
		}
	}()
	s.Handler.Handle(ctx, req, a.send)
	if !a.sent.Load() {
		s.Log.Error("a request was left without an answer", "command", req.Command, "containerID", req.ContainerID)
		_ = a.send(internal("the request was left without an answer"))
	}
}

func internal(what string) *Reply {
	return &Reply{Error: &Error{Code: CodeInternal, Msg: what, Details: "this is a defect; the daemon's log has more"}}
}

// watch cancels when the plugin closes the connection: it sends nothing after
// its request.
func watch(conn net.Conn, cancel context.CancelCauseFunc) {
	var b [1]byte
	_, err := conn.Read(b[:])
	if err == nil {
		err = errors.New("it sent more than a request")
	}
	cancel(fmt.Errorf("%w: %w", ErrPeerGone, err))
}

// answer sends the one reply of a connection.
type answer struct {
	conn net.Conn
	ctx  context.Context // of this one request
	sent atomic.Bool
}

func (a *answer) send(reply *Reply) error {
	if !a.sent.CompareAndSwap(false, true) {
		return errors.New("the request was answered already")
	}
	if a.ctx != nil && errors.Is(context.Cause(a.ctx), ErrPeerGone) {
		return context.Cause(a.ctx)
	}
	versioned := *reply
	versioned.Version = ProtocolVersion
	_ = a.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	frame, err := encode(&versioned)
	if err != nil {
		err = fmt.Errorf("reply: %w", err)
		_ = WriteFrame(a.conn, internal(err.Error()))
		return err
	}
	if _, err := a.conn.Write(frame); err != nil {
		return fmt.Errorf("%w: %w", ErrPeerGone, err)
	}
	return nil
}

// peerUID is the user at the other end (SO_PEERCRED, unix(7)).
func peerUID(conn net.Conn) (uint32, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T is not a unix socket", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	return cred.Uid, nil
}
