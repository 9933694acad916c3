package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// Handler does what a request asks. It calls reply exactly once, before it
// returns; reply returns an error that wraps ErrPeerGone when the plugin was
// gone before the bytes were accepted, so that an ADD whose result nobody got
// can be undone. ctx ends with cause ErrPeerGone when the plugin goes while the
// handler runs.
type Handler interface {
	Handle(ctx context.Context, req *Request, reply func(*Reply) error)
}

// HandlerFunc is a Handler made of a function.
type HandlerFunc func(ctx context.Context, req *Request, reply func(*Reply) error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, req *Request, reply func(*Reply) error) {
	f(ctx, req, reply)
}

// Server answers plugins on a unix socket, once: Serve, then Shutdown. Handler
// and Log must be set; fields are not changed after Serve.
type Server struct {
	Handler Handler
	Log     *slog.Logger
	// MaxConns bounds the requests that run at once in each lane; 256 when 0.
	// DEL and calls back from delegates (meta-ipam, whereabouts) have lanes of
	// their own, so that a flood of ADD starves neither.
	MaxConns int
	// StatusConns bounds STATUS in the same way; 16 when 0.
	StatusConns int
	// ReadTimeout is how long a plugin may take to send its request; 5 s when 0.
	ReadTimeout time.Duration
	// UID is the only user that is served; the zero value is root.
	UID uint32

	mu       sync.Mutex
	listener net.Listener
	closing  bool
	abort    context.CancelCauseFunc
	running  sync.WaitGroup
}

// Serve accepts on l until ctx ends or Shutdown is called, and closes l.
// Requests that run then go on: Shutdown waits for them. The error is nil
// after such an end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// What runs outlives ctx, it ends by Shutdown's deadline.
	work, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	if !s.begin(l, abort) {
		return ErrServerClosed
	}
	defer context.AfterFunc(ctx, s.stopAccepting)()
	lanes := s.newLanes()
	open := make(chan struct{}, lanes.total())
	var pause backOff
	for {
		open <- struct{}{} // above that, connections wait in the kernel's backlog
		c, err := l.Accept()
		switch {
		case err == nil:
			pause.reset()
			crowded := len(open) > cap(open)/2
			if !s.goServe(func() { defer func() { <-open }(); s.serve(work, c, lanes, crowded) }) {
				return c.Close()
			}
			continue
		case s.isClosing() || errors.Is(err, net.ErrClosed):
			return nil
		case !passes(err):
			return fmt.Errorf("socket %s: accept: %w", l.Addr(), err)
		}
		<-open
		s.Log.Error("cannot accept plugins, trying again", "socket", l.Addr().String(), "error", err, "hint", hint(err))
		if pause.wait(ctx) != nil {
			return nil
		}
	}
}

// Shutdown stops accepting and waits for the requests that run. When ctx ends
// first, their contexts end with cause ErrServerClosed and its error is
// returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopAccepting()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	abort := s.abort
	s.mu.Unlock()
	if abort != nil {
		abort(ErrServerClosed)
	}
	return fmt.Errorf("requests still run: %w", context.Cause(ctx))
}

// begin takes l; false after Shutdown.
func (s *Server) begin(l net.Listener, abort context.CancelCauseFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = l.Close()
		return false
	}
	s.listener, s.abort = l, abort
	return true
}

func (s *Server) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.listener != nil {
		_ = s.listener.Close()
	}
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// goServe runs f beside, counted for Shutdown; false when that has begun.
func (s *Server) goServe(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.running.Go(f)
	return true
}

// passes says whether accept may work again later.
func passes(err error) bool {
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EINTR, syscall.EAGAIN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func hint(err error) string {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return "out of file descriptors: raise LimitNOFILE, and see what holds them in /proc/<pid>/fd"
	}
	return "the kernel is short of memory or the peer gave up"
}

// backOff doubles a pause from 5 ms to 1 s.
type backOff struct{ next time.Duration }

func (b *backOff) reset() { b.next = 0 }

func (b *backOff) wait(ctx context.Context) error {
	b.next = min(max(2*b.next, 5*time.Millisecond), time.Second)
	t := time.NewTimer(b.next)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
