package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stage is what testing.T is for a test: it ends the story at the first
// failure and cleans up in reverse order.
type stage struct {
	ctx      context.Context
	out      io.Writer
	cleanups []func()
}

// failure ends the story from wherever it happens.
type failure struct{ err error }

// play runs the story and then all cleanups, whatever happens.
func play(ctx context.Context, out io.Writer, story func(*stage)) (err error) {
	s := &stage{ctx: ctx, out: out}
	defer func() {
		s.cleanUp()
		if caught := recover(); caught != nil {
			f, ours := caught.(failure)
			if !ours {
				panic(caught)
			}
			err = f.err
		}
	}()
	story(s)
	return nil
}

func (s *stage) cleanUp() {
	for len(s.cleanups) > 0 {
		last := len(s.cleanups) - 1
		clean := s.cleanups[last]
		s.cleanups = s.cleanups[:last]
		clean()
	}
}

// Helper, Cleanup, Context, Logf and Fatalf make the stage a testnet.TB.
func (s *stage) Helper() {}

// Cleanup keeps f for the end.
func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Context ends on Ctrl-C and when the time is over.
func (s *stage) Context() context.Context { return s.ctx }

// Logf prints a line.
func (s *stage) Logf(format string, args ...any) { s.print("  " + fmt.Sprintf(format, args...) + "\n") }

// Fatalf ends the story. An interruption is named as such, whatever failed
// because of it.
func (s *stage) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if stopped := s.ctx.Err(); errors.Is(err, stopped) {
		err = context.Cause(s.ctx)
	} else if stopped != nil {
		err = fmt.Errorf("%w; then: %w", context.Cause(s.ctx), err)
	}
	panic(failure{err})
}

func (s *stage) must(err error) {
	if err == nil {
		err = s.ctx.Err()
	}
	if err != nil {
		s.Fatalf("%w", err)
	}
}

func (s *stage) title(text string) { s.print("\n" + text + "\n\n") }

func (s *stage) print(text string) { _, _ = io.WriteString(s.out, text) }

// makeDir makes the folder for everything on disk, and removes those of demos
// that were killed.
func makeDir() (string, error) {
	const prefix = "meta-cni-demo-"
	old, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		number, err := strconv.Atoi(pid)
		if err == nil && errors.Is(unix.Kill(number, 0), unix.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
	return os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid()))
}

// nothingLeft looks for network namespaces that this process made.
func nothingLeft() error {
	left, err := filepath.Glob(fmt.Sprintf("/run/netns/mcni-%d-*", os.Getpid()))
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("network namespaces are left: %v", left)
	}
	return err
}
