package world

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// forwarder makes the API server reachable on a loopback port of the machine,
// so that tests and kubectl need not enter a network namespace.
type forwarder struct {
	listener net.Listener
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

func startForwarder() (*forwarder, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &forwarder{listener: listener, cancel: cancel}
	f.running.Go(func() { f.accept(ctx) })
	return f, nil
}

func (f *forwarder) addr() string { return f.listener.Addr().String() }

func (f *forwarder) accept(ctx context.Context) {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.running.Go(func() { pipe(ctx, conn) })
	}
}

// pipe joins a connection with a new one to the API server until either side
// closes. If the server is down, the caller sees its connection closed.
func pipe(ctx context.Context, local net.Conn) {
	defer local.Close()
	remote, err := dialIn(ctx, controlNetns, net.JoinHostPort(controlAddr, APIPort))
	if err != nil {
		return
	}
	defer remote.Close()
	closed := make(chan struct{}, 2)
	forward := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // ends with the connection; why does not matter
		closed <- struct{}{}
	}
	go forward(remote, local)
	go forward(local, remote)
	select {
	case <-ctx.Done():
	case <-closed:
	}
}

func (f *forwarder) close() error {
	f.cancel()
	err := f.listener.Close()
	f.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
