// Command testreport reads the events of `go test -json` on standard input and
// prints what go test without -v would print: the output of failed tests and
// the closing line of each package. It keeps the names and reasons of skipped
// tests in a file, so that the end of a long run can say what was not tested.
//
//	go test -json ./... | testreport -skips FILE     print, remember skips
//	testreport -skips FILE -summary                  print what was remembered
//
// It exits with 1 when a test or a build failed. With -stream all output is
// printed as it comes.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	skips := flag.String("skips", "", "file that collects skipped tests over several runs")
	stream := flag.Bool("stream", false, "print all output as it comes")
	summary := flag.Bool("summary", false, "print the collected skips and read nothing")
	flag.Parse()
	err := run(os.Stdin, os.Stdout, *skips, *stream, *summary)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, skips string, stream, summary bool) error {
	if summary {
		return printSkips(out, skips)
	}
	r := newReport(out, stream)
	readErr := r.read(in)
	return errors.Join(readErr, keepSkips(skips, r.skipped), r.verdict())
}

// keepSkips appends to the file; an empty name keeps nothing.
func keepSkips(path string, skipped []string) error {
	if path == "" || len(skipped) == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for _, line := range skipped {
		if _, err := fmt.Fprintln(f, line); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

func printSkips(out io.Writer, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		_, err := fmt.Fprintln(out, "\nNo test was skipped.")
		return err
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintln(out, "\nSkipped, and why:"); err != nil {
		return err
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if _, err := fmt.Fprintln(out, "  "+lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}
