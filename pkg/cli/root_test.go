package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestRun: what a command returns becomes the exit code and what people read.
func TestRun(t *testing.T) {
	broken := errors.New("it broke")
	for _, c := range []struct {
		name, calledAs string
		args           []string
		result         error
		code           int
		out            string
	}{
		{"success", "metactl", []string{"noun", "verb"}, nil, 0, ""},
		{"error", "metactl", []string{"noun", "verb"}, broken, 1, "metactl: it broke\n"},
		{"error with a code", "metactl", []string{"noun", "verb"}, Exit{Code: 2, Err: broken}, 2, "metactl: it broke\n"},
		{"code alone", "metactl", []string{"noun", "verb"}, Exit{Code: 1}, 1, ""},
		{"mistyped verb", "metactl", []string{"noun", "vreb"}, nil, 1, "metactl: unknown command \"vreb\" for \"metactl noun\"; did you mean verb?\n"},
		{"mistyped noun of the plugin", "/usr/bin/kubectl-meta", []string{"x"}, nil, 1, "metactl: unknown command \"x\" for \"kubectl meta\"\n"},
		{"version", "metactl", []string{"--version"}, nil, 0, "v7\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			noun := Noun(&cobra.Command{Use: "noun"})
			noun.AddCommand(&cobra.Command{Use: "verb", RunE: func(*cobra.Command, []string) error { return c.result }})
			root := Root(c.calledAs, "v7", Streams{In: &out, Out: &out, Err: &out}, noun)
			if code := Run(t.Context(), root, c.args, &out); code != c.code || out.String() != c.out {
				t.Errorf("exit code %d, want %d; it printed %q, want %q", code, c.code, out.String(), c.out)
			}
		})
	}
}

func TestConnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: one, contexts: [{name: one, context: {cluster: one}}, {name: two, context: {cluster: two}}],
clusters: [{name: one, cluster: {server: "https://one:6443"}}, {name: two, cluster: {server: "https://two:6443"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", path)
	for _, c := range []struct {
		cluster    Cluster
		host, fail string
	}{
		{Cluster{}, "https://one:6443", ""},
		{Cluster{Context: "two"}, "https://two:6443", ""},
		{Cluster{Kubeconfig: path, Context: "two"}, "https://two:6443", ""},
		{Cluster{Context: "three"}, "", `context "three" does not exist`},
		{Cluster{Kubeconfig: "/nowhere"}, "", "no cluster is named: give --kubeconfig FILE"},
	} {
		config, _, err := c.cluster.Connect()
		switch {
		case c.fail != "":
			if err == nil || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%+v: %v, want %q", c.cluster, err, c.fail)
			}
		case err != nil:
			t.Errorf("%+v: %v", c.cluster, err)
		case config.Host != c.host || config.UserAgent != "metactl":
			t.Errorf("%+v: %s as %s, want %s", c.cluster, config.Host, config.UserAgent, c.host)
		}
	}
}
