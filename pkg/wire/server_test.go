package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// syncBuffer is a log that a test may read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type running struct {
	*Server
	socket string
	log    *syncBuffer
	served chan error
}

// socketPath is short: a socket's path has 107 bytes at most.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "s.sock")
}

func start(t testing.TB, s *Server) *running {
	t.Helper()
	socket := socketPath(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, s, socket, l)
}

func startOn(t testing.TB, s *Server, socket string, l net.Listener) *running {
	t.Helper()
	r := &running{Server: s, socket: socket, log: new(syncBuffer), served: make(chan error, 1)}
	s.Log = slog.New(slog.NewTextHandler(r.log, nil))
	go func() { r.served <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-r.served; err != nil {
			t.Error(err)
		}
	})
	return r
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// echo replies with the request.
func echo(_ context.Context, req *Request, reply func(*Reply) error) {
	text, err := json.Marshal(req)
	if err != nil {
		panic(err)
	}
	_ = reply(&Reply{Result: text})
}

func add(id string) *Request {
	return &Request{Version: ProtocolVersion, Plugin: PluginMeta, Command: "ADD", ContainerID: id}
}

// dialRaw connects and sends a request by hand.
func dialRaw(t testing.TB, socket string, req *Request) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if req != nil {
		if err := WriteFrame(c, req); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestServerAnswers(t *testing.T) {
	r := start(t, &Server{Handler: HandlerFunc(echo)})
	req := add("c1")
	req.Config = bytes.Repeat([]byte("x"), 300<<10) // more than a socket's buffer
	reply, err := Do(within(t), r.socket, req)
	if err != nil {
		t.Fatal(err)
	}
	var back Request
	if err := json.Unmarshal(reply.Result, &back); err != nil {
		t.Fatal(err)
	}
	if back.ContainerID != "c1" || !bytes.Equal(back.Config, req.Config) || reply.Version != ProtocolVersion {
		t.Errorf("got %q and %d bytes", back.ContainerID, len(back.Config))
	}
	info, err := os.Stat(r.socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	folder, err := os.Stat(filepath.Dir(r.socket))
	if err != nil || folder.Mode().Perm() != 0o700 {
		t.Error(folder.Mode(), err)
	}
}

func TestServerTellsTheHandlerThatThePeerIsGone(t *testing.T) {
	begun, causes, replies := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	r := start(t, &Server{Handler: HandlerFunc(func(ctx context.Context, _ *Request, reply func(*Reply) error) {
		close(begun)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		replies <- reply(&Reply{})
	})})
	ctx, cancel := context.WithCancel(within(t))
	asked := make(chan error, 1)
	go func() { _, err := Do(ctx, r.socket, add("c1")); asked <- err }()
	<-begun
	cancel()
	if err := <-asked; !errors.Is(err, ErrTimeout) {
		t.Errorf("client: %v", err)
	}
	if err := <-causes; !errors.Is(err, ErrPeerGone) {
		t.Errorf("cause: %v", err)
	}
	if err := <-replies; !errors.Is(err, ErrPeerGone) {
		t.Errorf("reply: %v", err)
	}
}

func TestReplyFailsWhenThePeerLeavesBetween(t *testing.T) {
	// The watcher may not have run yet when the handler replies: the write
	// itself must notice.
	closed, replies := make(chan struct{}), make(chan error, 1)
	r := start(t, &Server{Handler: HandlerFunc(func(_ context.Context, _ *Request, reply func(*Reply) error) {
		<-closed
		replies <- reply(&Reply{Result: json.RawMessage(`{}`)})
	})})
	for range 50 {
		c := dialRaw(t, r.socket, add("c1"))
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		closed <- struct{}{}
		if err := <-replies; !errors.Is(err, ErrPeerGone) {
			t.Fatalf("reply: %v", err)
		}
	}
}

func TestServerHoldsHandlersToTheContract(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler HandlerFunc
		code    uint
		log     string
	}{
		{"panic", func(context.Context, *Request, func(*Reply) error) { panic("boom") }, CodeInternal, "server_test.go"},
		{"no answer", func(context.Context, *Request, func(*Reply) error) {}, CodeInternal, "left without an answer"},
		{"two answers", func(_ context.Context, _ *Request, reply func(*Reply) error) {
			_ = reply(&Reply{Error: &Error{Code: 7}})
			if reply(&Reply{}) == nil {
				panic("the second was taken")
			}
		}, 7, ""},
		{"panic after the answer", func(_ context.Context, _ *Request, reply func(*Reply) error) {
			_ = reply(&Reply{Error: &Error{Code: 7}})
			panic("late")
		}, 7, "late"},
		{"answer too large", func(_ context.Context, _ *Request, reply func(*Reply) error) {
			if reply(&Reply{Error: &Error{Msg: strings.Repeat("x", MaxFrame)}}) == nil {
				panic("sent")
			}
		}, CodeInternal, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := start(t, &Server{Handler: test.handler})
			reply, err := Do(within(t), r.socket, add("c1"))
			if err != nil {
				t.Fatal(err)
			}
			if reply.Error == nil || reply.Error.Code != test.code {
				t.Errorf("got %+v, want code %d", reply.Error, test.code)
			}
			if err := r.Shutdown(within(t)); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(r.log.String(), test.log) {
				t.Errorf("log lacks %q: %s", test.log, r.log)
			}
		})
	}
}

func TestServerLanes(t *testing.T) {
	release, begun := make(chan struct{}), make(chan string, 10)
	r := start(t, &Server{MaxConns: 2, StatusConns: 1, Handler: HandlerFunc(func(ctx context.Context, req *Request, reply func(*Reply) error) {
		begun <- req.Command
		<-release
		_ = reply(&Reply{})
	})})
	full := []*Request{
		{Version: 1, Plugin: PluginMeta, Command: "ADD"},
		{Version: 1, Plugin: PluginMeta, Command: "CHECK"},
		{Version: 1, Plugin: PluginMeta, Command: "DEL"},
		{Version: 1, Plugin: PluginMeta, Command: "DEL"},
		{Version: 1, Plugin: PluginIPAM, Command: "ADD"},
		{Version: 1, Plugin: PluginWhereabouts, Command: "DEL"},
		{Version: 1, Plugin: PluginMeta, Command: "STATUS"},
	}
	answers := make(chan error, len(full))
	for _, req := range full {
		go func() {
			reply, err := Do(within(t), r.socket, req)
			if err == nil && reply.Error != nil {
				err = reply.Error
			}
			answers <- err
		}()
		<-begun
	}
	for _, req := range full {
		reply, err := Do(within(t), r.socket, req)
		if err != nil {
			t.Fatal(err)
		}
		if reply.Error == nil || reply.Error.Code != CodeTryAgainLater || !strings.Contains(reply.Error.Msg, "busy") {
			t.Errorf("%s %s above its lane: %+v", req.Plugin, req.Command, reply)
		}
	}
	close(release)
	for range full {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

func TestServerServesItsUserOnly(t *testing.T) {
	r := start(t, &Server{UID: 54321, Handler: HandlerFunc(echo)})
	if _, err := Do(within(t), r.socket, add("c1")); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("got %v", err)
	}
	if err := r.Shutdown(within(t)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.log.String(), "not the permitted user") {
		t.Error(r.log)
	}
}

func TestServerRefusesWhatIsNoRequest(t *testing.T) {
	r := start(t, &Server{ReadTimeout: 50 * time.Millisecond, Handler: HandlerFunc(echo)})
	for _, test := range []struct {
		name string
		send []byte
	}{
		{"nothing", nil},
		{"half a header", []byte{0, 0}},
		{"lying length", []byte{0xff, 0xff, 0xff, 0xff}},
		{"not JSON", []byte{0, 0, 0, 1, '{'}},
		{"HTTP", []byte("GET /healthz HTTP/1.1\r\n\r\n")},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dialRaw(t, r.socket, nil)
			if _, err := c.Write(test.send); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := c.Read(make([]byte, 1))
			if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %d, %v: want the connection closed", n, err)
			}
		})
	}
	reply, err := Do(within(t), r.socket, &Request{Version: ProtocolVersion + 1, Command: "ADD"})
	if err != nil || reply.Error == nil || reply.Error.Code != CodeTryAgainLater {
		t.Errorf("a later protocol: %+v, %v", reply, err)
	}
}
