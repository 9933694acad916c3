// Command meta-cni-controller is the cluster's singleton: it takes addresses
// from dead nodes, deletes what nobody keeps, and counts for people. Several
// may run; one leads.
//
//	meta-cni-controller run [flags]
//	meta-cni-controller version
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/meta-cni/meta-cni/pkg/controller"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

const usage = "usage: meta-cni-controller run|version [flags]; meta-cni-controller run -h tells the flags"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends us at once
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "meta-cni-controller:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "-h", "--help", "help":
		_, err := fmt.Fprintln(out, usage)
		return err
	case "run":
		return run(ctx, args[1:])
	case "version":
		_, err := fmt.Fprintln(out, version())
		return err
	default:
		return fmt.Errorf("command %q is unknown; %s", args[0], usage)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("meta-cni-controller run", flag.ContinueOnError)
	var o controller.Options
	kubeconfig := flags.String("kubeconfig", "", "how to reach the API server; empty inside a pod")
	var servers []string
	flags.Func("api-servers", "URLs of API servers that work without kube-proxy, with commas between, tried in order", func(text string) error {
		servers = strings.Split(text, ",")
		return nil
	})
	flags.DurationVar(&o.Period, "period", 30*time.Second, "time between two looks at everything")
	flags.DurationVar(&o.Times.PodAbsent, "pod-absent", 24*time.Hour, "how long an address is kept for a pod that is gone and of no StatefulSet")
	flags.StringVar(&o.WhereaboutsNamespace, "whereabouts-namespace", "kube-system", "where Whereabouts has its reservations")
	var level slog.Level
	flags.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(o.Log) // client-go's own messages
	var err error
	if o.Identity, err = identity(); err != nil {
		return err
	}
	client, err := kube.NewClient(kube.Options{Kubeconfig: *kubeconfig, APIServers: servers, UserAgent: controller.Name, Log: o.Log})
	if err != nil {
		return err
	}
	o.Config, o.HTTP = client.REST()
	o.Log.Info("meta-cni-controller starts", "version", version(), "identity", o.Identity)
	return controller.Run(ctx, o)
}

// identity in the Lease is of this process alone: in the network of the host, two
// pods on one node have one host name and, each for itself, process number 1,
// and both would take the Lease for their own.
func identity() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("the host's name is needed to lead: %w", err)
	}
	return host + "_" + rand.Text(), nil
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
