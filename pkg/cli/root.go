package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit is an error that ends the program with a code. Without Err there is
// nothing more to say.
type Exit struct {
	Code int
	Err  error
}

func (e Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e Exit) Unwrap() error { return e.Err }

// pluginName is the file's name by which kubectl finds a command `kubectl
// meta`.
const pluginName = "kubectl-meta"

// Root is the command that the program is under the name that it was called by.
func Root(calledAs, version string, streams Streams, nouns ...*cobra.Command) *cobra.Command {
	root := Noun(&cobra.Command{
		Use:   "metactl",
		Short: "See and mend what meta-cni does in a cluster",
		Long: `metactl shows what meta-cni does in a cluster, or on a host without one.
Its commands only read, unless their help says what they change.

Linked as kubectl-meta into a folder of $PATH, it is "kubectl meta" too.`,
		Version:           version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
	})
	if filepath.Base(calledAs) == pluginName {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl meta"}
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	root.AddCommand(nouns...)
	return root
}

// Noun makes a command that only has verbs: alone it prints its help, and a verb
// that it doesn't have is an error.
func Noun(command *cobra.Command) *cobra.Command {
	command.Args = func(command *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		command.SuggestionsMinimumDistance = 2
		hint := ""
		if near := command.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "; did you mean " + strings.Join(near, ", ") + "?"
		}
		return fmt.Errorf("unknown command %q for %q%s", args[0], command.CommandPath(), hint)
	}
	command.RunE = func(command *cobra.Command, _ []string) error { return command.Help() }
	return command
}

// Run carries a command line out and says what the program's exit code is.
func Run(ctx context.Context, root *cobra.Command, args []string, errOut io.Writer) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var exit Exit
	if !errors.As(err, &exit) {
		exit = Exit{Code: 1, Err: err}
	}
	if exit.Err != nil {
		fmt.Fprintf(errOut, "metactl: %v\n", err)
	}
	return exit.Code
}
