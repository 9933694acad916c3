package wire

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"
)

func TestShutdownWaitsForWhatRuns(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	r := start(t, &Server{Handler: HandlerFunc(func(ctx context.Context, _ *Request, reply func(*Reply) error) {
		close(begun)
		<-release
		if ctx.Err() != nil {
			panic("cancelled")
		}
		_ = reply(&Reply{Result: json.RawMessage(`{"done":true}`)})
	})})
	results := make(chan string, 1)
	go func() {
		reply, err := Do(within(t), r.socket, add("c1"))
		if err != nil {
			results <- err.Error()
			return
		}
		results <- string(reply.Result)
	}()
	<-begun
	late := dialRaw(t, r.socket, nil) // connected, nothing sent
	stopped := make(chan error, 1)
	go func() { stopped <- r.Shutdown(within(t)) }()
	for !r.isClosing() {
		time.Sleep(time.Millisecond)
	}
	if _, err := Do(within(t), r.socket, add("c2")); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("a request after the stop: %v", err)
	}
	select {
	case err := <-stopped:
		t.Error("did not wait:", err)
	default:
	}
	_ = late.Close()
	close(release)
	if got := <-results; got != `{"done":true}` {
		t.Error(got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestShutdownOutOfTimeCancels(t *testing.T) {
	begun, causes := make(chan struct{}), make(chan error, 1)
	r := start(t, &Server{Handler: HandlerFunc(func(ctx context.Context, _ *Request, _ func(*Reply) error) {
		close(begun)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		// It dies without an answer here, as a process that ends does.
		panic("ended")
	})})
	asked := make(chan struct{})
	go func() { defer close(asked); _, _ = Do(within(t), r.socket, add("c1")) }()
	<-begun
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Shutdown(now); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-causes; !errors.Is(err, ErrServerClosed) {
		t.Errorf("cause %v", err)
	}
	<-asked
}

func TestServeEndsWithItsContextAndLeavesWork(t *testing.T) {
	socket := socketPath(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	begun, release := make(chan struct{}), make(chan struct{})
	s := &Server{Log: slog.New(slog.DiscardHandler), Handler: HandlerFunc(func(ctx context.Context, _ *Request, reply func(*Reply) error) {
		close(begun)
		<-release
		if ctx.Err() != nil {
			panic("cancelled")
		}
		_ = reply(&Reply{})
	})}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	asked := make(chan error, 1)
	go func() {
		reply, err := Do(within(t), socket, add("c1"))
		if err == nil && reply.Error != nil {
			err = reply.Error
		}
		asked <- err
	}()
	<-begun
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	close(release)
	if err := <-asked; err != nil {
		t.Error(err)
	}
	if err := s.Shutdown(within(t)); err != nil {
		t.Error(err)
	}
	if err := s.Serve(context.Background(), l); !errors.Is(err, ErrServerClosed) {
		t.Error("served twice:", err)
	}
}
