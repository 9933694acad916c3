package wire

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestDoTellsFailuresApart(t *testing.T) {
	// peer does what a daemon that fails does, after the request was read.
	peer := func(then func(net.Conn)) func(t *testing.T, socket string) {
		return func(t *testing.T, socket string) {
			t.Helper()
			l, err := Listen(socket)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				if ReadFrame(c, new(Request)) == nil {
					then(c)
				}
			}()
			t.Cleanup(func() { _ = l.Close(); <-done })
		}
	}
	taken := make([]byte, 4)
	hang := func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, socket string)
		want    error
		text    string
	}{
		{"no socket", func(*testing.T, string) {}, ErrNoDaemon, "no such file"},
		{"stale socket", func(t *testing.T, socket string) {
			l, err := Listen(socket)
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
		}, ErrNoDaemon, "connection refused"},
		{"a file", func(t *testing.T, socket string) {
			l, err := Listen(socket)
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			if err := errors.Join(os.Remove(socket), os.WriteFile(socket, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, ErrNoDaemon, "connection refused"},
		{"gone before it took the request", peer(func(net.Conn) {}), ErrNoDaemon, "taken"},
		{"gone before it answered", peer(func(c net.Conn) { _, _ = c.Write(taken) }), ErrInterrupted, "answer"},
		{"gone in mid answer", peer(func(c net.Conn) { _, _ = c.Write(append(taken, 0, 0, 0, 9, '{')) }), ErrInterrupted, "answer"},
		{"garbage", peer(func(c net.Conn) { _, _ = c.Write(append(taken, 0, 0, 0, 1, '{')) }), ErrInterrupted, "read the answer"},
		{"does not take the request", peer(hang), ErrTimeout, "taken"},
		{"does not answer", peer(func(c net.Conn) { _, _ = c.Write(taken); hang(c) }), ErrTimeout, "wait for the answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := socketPath(t)
			test.prepare(t, socket)
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			_, err := Do(ctx, socket, add("c1"))
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || !strings.Contains(err.Error(), socket) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.text)
			}
		})
	}
}

func TestAcceptByEndsOnlyTheTaking(t *testing.T) {
	socket := socketPath(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Nobody accepts: it connects all the same, as to a stopped daemon.
	begin := time.Now()
	_, err = Client{Socket: socket, AcceptBy: begin.Add(100 * time.Millisecond)}.Do(context.Background(), add("c1"))
	if !errors.Is(err, ErrTimeout) || time.Since(begin) > 2*time.Second {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}

	late := make(chan struct{})
	r := start(t, &Server{Handler: HandlerFunc(func(_ context.Context, _ *Request, reply func(*Reply) error) {
		<-late
		_ = reply(&Reply{})
	})})
	acceptBy := time.Now().Add(100 * time.Millisecond)
	time.AfterFunc(200*time.Millisecond, func() { close(late) })
	if _, err := (Client{Socket: r.socket, AcceptBy: acceptBy}).Do(within(t), add("c1")); err != nil {
		t.Errorf("a request that was taken in time: %v", err)
	}
}

func TestDoWithoutAnyDeadline(t *testing.T) {
	r := start(t, &Server{Handler: HandlerFunc(echo)})
	if _, err := Do(context.Background(), r.socket, add("c1")); err != nil {
		t.Error(err)
	}
}

func TestDoNamesABadRequest(t *testing.T) {
	_, err := Do(context.Background(), "/nowhere", &Request{Netns: "\xff"})
	if err == nil || !strings.Contains(err.Error(), "CNI_NETNS") || errors.Is(err, ErrNoDaemon) {
		t.Errorf("got %v", err)
	}
	_, err = Do(context.Background(), "/"+strings.Repeat("x", 200), add("c1"))
	if err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkDo(b *testing.B) {
	r := start(b, &Server{Handler: HandlerFunc(echo)})
	req := add("c1")
	req.Config = make([]byte, 2048)
	for b.Loop() {
		if _, err := Do(context.Background(), r.socket, req); err != nil {
			b.Fatal(err)
		}
	}
}
