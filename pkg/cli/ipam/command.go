package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/meta-cni/meta-cni/pkg/cli"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
)

// output is the form of what is printed.
type output string

const (
	asText output = "text"
	asJSON output = "json"
)

// env is what the verbs share.
type env struct {
	cli.Streams
	cluster  cli.Cluster
	dir      string
	poolsDir string
	output   string
	now      func() time.Time
	// host and boot of this machine, for a folder.
	host, boot func() (string, error)
	// open is open itself but in tests.
	opened source
}

// Command is `metactl ipam`.
func Command(streams cli.Streams) *cobra.Command {
	return newCommand(&env{Streams: streams, now: time.Now, host: os.Hostname, boot: bootID})
}

func newCommand(e *env) *cobra.Command {
	command := cli.Noun(&cobra.Command{
		Use:   "ipam",
		Short: "Addresses: who has which, what is wrong with them, release, import",
		Long: `Shows and mends the addresses that meta-cni gives to pods: of a cluster by its
objects (IPPool, AddressSpace, IPBlock, IPClaim), or of a host without
Kubernetes by the folder of its daemon (--dir).`,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // what fails comes as an error
			if e.output != string(asText) && e.output != string(asJSON) {
				return fmt.Errorf("-o %s: write text or json", e.output)
			}
			return nil
		},
	})
	flags := command.PersistentFlags()
	e.cluster.Flags(flags)
	flags.StringVar(&e.dir, "dir", "", "address `folder` of a host without Kubernetes, such as /var/lib/meta-cni/addresses")
	flags.StringVar(&e.poolsDir, "pools", "/etc/meta-cni/objects", "with --dir: `folder` with the YAML files of IPPools")
	flags.StringVarP(&e.output, "output", "o", string(asText), "`form`: text or json")
	command.AddCommand(showCommand(e), checkCommand(e), releaseCommand(e), importCommand(e))
	return command
}

// open opens what the flags name.
func (e *env) open() (source, error) {
	if e.opened != nil {
		return e.opened, nil
	}
	if e.dir != "" {
		if e.cluster.Kubeconfig != "" || e.cluster.Context != "" {
			return nil, errors.New("--dir is a host without Kubernetes: leave --kubeconfig and --context out")
		}
		return openFolder(e.dir, e.poolsDir)
	}
	config, client, err := e.cluster.Connect()
	if err != nil {
		return nil, err
	}
	return newCluster(config, client, crd.Options{Node: "metactl", Log: e.log()})
}

// with opens, does and closes. Errors get their remedy.
func (e *env) with(ctx context.Context, do func(context.Context, source) error) error {
	s, err := e.open()
	if err != nil {
		return remedy(err)
	}
	defer s.close()
	return remedy(do(ctx, s))
}

// log is for what a store passes over.
func (e *env) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(e.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// bootID is the kernel's.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("this host's boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
