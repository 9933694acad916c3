package main

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, test := range []struct {
		name string
		args []string
		out  string
		err  string
	}{
		{"nothing", nil, "", "usage:"},
		{"help", []string{"help"}, "usage:", ""},
		{"version", []string{"version"}, "\n", ""},
		{"unknown", []string{"walk"}, "", `command "walk" is unknown`},
		{"unknown flag", []string{"run", "--nonsense"}, "", "nonsense"},
		{"a time that is none", []string{"run", "--pod-absent=soon"}, "", "pod-absent"},
		{"no API server", []string{"run"}, "", "no API server"},
		{"two ways to it", []string{"run", "--kubeconfig=/nonexistent"}, "", "/nonexistent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			err := command(t.Context(), test.args, &out)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if !strings.Contains(out.String(), test.out) {
				t.Errorf("printed %q", out.String())
			}
		})
	}
	if err := command(t.Context(), []string{"run", "-h"}, &bytes.Buffer{}); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
}

// TestIdentity: two pods on one node must not both hold the Lease.
func TestIdentity(t *testing.T) {
	one, err := identity()
	if err != nil {
		t.Fatal(err)
	}
	if other, err := identity(); err != nil || other == one {
		t.Errorf("%s, %s, %v", one, other, err)
	}
}
