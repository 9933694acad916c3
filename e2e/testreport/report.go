package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// key names a test of a package.
type key struct{ pkg, test string }

// report turns events into text.
type report struct {
	out     io.Writer
	stream  bool
	output  map[key][]string
	skipped []string
	passed  int
	failed  int
	broken  int // builds and packages that failed
	foreign int // lines that are no events
}

func newReport(out io.Writer, stream bool) *report {
	return &report{out: out, stream: stream, output: map[key][]string{}}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				r.foreign++
				r.print(string(line))
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		r.print(e.Output)
	case "build-fail":
		r.broken++
	case "output":
		r.takeOutput(k, e.Output)
	case "skip":
		if e.Test != "" { // a package without tests is skipped as well
			r.skipped = append(r.skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(r.output[k])))
		}
		delete(r.output, k)
	case "pass":
		if e.Test != "" {
			r.passed++
		}
		delete(r.output, k)
	case "fail":
		if e.Test == "" {
			r.broken++
		} else {
			r.failed++
		}
		r.flush(k)
	}
}

// takeOutput prints what belongs to a package at once and keeps what belongs
// to a test until its outcome is known.
func (r *report) takeOutput(k key, text string) {
	switch {
	case r.stream:
		r.print(text)
		r.output[k] = append(r.output[k], text)
	case k.test != "":
		r.output[k] = append(r.output[k], text)
	case text != "PASS\n":
		r.print(text)
	}
}

func (r *report) flush(k key) {
	if !r.stream {
		for _, text := range r.output[k] {
			if !strings.HasPrefix(text, "=== ") {
				r.print(text)
			}
		}
	}
	delete(r.output, k)
}

// print drops a write error: standard output that is gone must not turn a
// good test run into a bad one.
func (r *report) print(text string) {
	_, _ = io.WriteString(r.out, text)
}

// verdict is an error if anything failed, or if a test began and has no
// outcome.
func (r *report) verdict() error {
	r.print(fmt.Sprintf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(r.skipped)))
	open := 0
	for k := range r.output {
		if k.test != "" {
			open++
			r.flush(k)
		}
	}
	if r.failed+r.broken+r.foreign+open > 0 {
		return fmt.Errorf("%d tests failed, %d packages or builds failed, %d tests without an outcome, %d lines that are no test events",
			r.failed, r.broken, open, r.foreign)
	}
	return nil
}

// reason is what the test said when it skipped.
func reason(output []string) string {
	var said []string
	for _, text := range output {
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") {
			continue
		}
		if file, message, ok := strings.Cut(text, ": "); ok && strings.Contains(file, ".go:") {
			text = message
		}
		said = append(said, text)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}
