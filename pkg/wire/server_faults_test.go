package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// fewFilesEnv names the socket at which the test program serves as a process
// that may open few files.
const fewFilesEnv = "WIRE_TEST_FEW_FILES"

func TestMain(m *testing.M) {
	if socket := os.Getenv(fewFilesEnv); socket != "" {
		if err := serveWithFewFiles(socket); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// serveWithFewFiles serves until its standard input ends.
func serveWithFewFiles(socket string) error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 24, Max: 24}); err != nil {
		return err
	}
	l, err := Listen(socket)
	if err != nil {
		return err
	}
	s := &Server{Handler: HandlerFunc(echo), ReadTimeout: time.Second, Log: slog.New(slog.NewTextHandler(os.Stdout, nil))}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	return errors.Join(s.Serve(ctx, l), s.Shutdown(context.Background()))
}

// scarce is a listener that has no file descriptor left for a while.
type scarce struct {
	net.Listener
	left int
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.left > 0 {
		s.left--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return s.Listener.Accept()
}

func TestServerOutlivesEMFILE(t *testing.T) {
	socket := socketPath(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	r := startOn(t, &Server{Handler: HandlerFunc(echo)}, socket, &scarce{l, 4})
	if _, err := Do(within(t), r.socket, add("c1")); err != nil {
		t.Fatal(err)
	}
	if passed := time.Since(begin); passed < (5+10+20+40)*time.Millisecond {
		t.Errorf("answered after %s: it did not back off", passed)
	}
	if !strings.Contains(r.log.String(), "LimitNOFILE") {
		t.Error(r.log)
	}
}

// The same with a process whose files are really used up, by plugins that
// connect and say nothing.
func TestServerRecoversFromEMFILE(t *testing.T) {
	socket := socketPath(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fewFilesEnv+"="+socket)
	log := new(syncBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, log)
		}
	})
	awaitSocket(t, socket)
	for range 60 {
		dialRaw(t, socket, nil)
	}
	if _, err := (Client{Socket: socket, AcceptBy: time.Now().Add(15 * time.Second)}).Do(within(t), add("c1")); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "too many open files") {
		t.Errorf("the files were not used up: %s", log)
	}
}

func awaitSocket(t *testing.T, socket string) {
	t.Helper()
	for ctx := within(t); ; time.Sleep(5 * time.Millisecond) {
		_, err := Do(ctx, socket, add("c0"))
		if err == nil {
			return
		}
		if !errors.Is(err, ErrNoDaemon) {
			t.Fatal(err)
		}
	}
}

func TestServeReportsAListenerThatBroke(t *testing.T) {
	broken := errors.New("broken")
	err := (&Server{Log: slog.New(slog.DiscardHandler)}).Serve(context.Background(), failing{broken})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Accept() (net.Conn, error) { return nil, f.err }
func (failing) Close() error                { return nil }
func (failing) Addr() net.Addr              { return &net.UnixAddr{} }

// Thousands of connections at once, half of them silent: every request is
// answered or told to come again, and STATUS is answered meanwhile.
func TestServerStandsAFlood(t *testing.T) {
	r := start(t, &Server{MaxConns: 8, StatusConns: 4, ReadTimeout: time.Second, Handler: HandlerFunc(echo)})
	for range 150 {
		dialRaw(t, r.socket, nil) // says nothing
	}
	var wg sync.WaitGroup
	problems := make(chan error, 2000)
	for i := range 2000 {
		wg.Go(func() {
			reply, err := Do(within(t), r.socket, add(fmt.Sprint(i)))
			if err == nil && reply.Error != nil && reply.Error.Code != CodeTryAgainLater {
				err = reply.Error
			}
			problems <- err
		})
	}
	for range 20 {
		reply, err := Do(within(t), r.socket, &Request{Version: 1, Command: "STATUS"})
		if err != nil || reply.Error != nil {
			t.Errorf("STATUS: %+v, %v", reply, err)
		}
	}
	wg.Wait()
	close(problems)
	for err := range problems {
		if err != nil {
			t.Error(err)
		}
	}
}
