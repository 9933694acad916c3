// Command up starts a world of the test bed and keeps it until Ctrl-C, to look
// around in it with kubectl, on request with meta-cni. It prints what to type.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/meta-cni/meta-cni/e2e/product"
	"github.com/meta-cni/meta-cni/e2e/scenario"
	"github.com/meta-cni/meta-cni/e2e/world"
)

func main() {
	nodes := flag.Int("nodes", 2, "number of nodes")
	install := flag.Bool("meta-cni", false, "install meta-cni from the sources in the working directory")
	logs := flag.String("logs", "", "folder for the logs of all processes (kept)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(ctx, world.Options{Nodes: *nodes, LogDir: *logs, Log: log, Primary: world.BridgePrimary}, *install); err != nil {
		log.Error(err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, opts world.Options, install bool) (err error) {
	w, err := world.Start(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := scenario.InstallTestPlugins(w); err != nil {
		return err
	}
	if install {
		if err := product.Install(ctx, w, "."); err != nil {
			return err
		}
	}
	fmt.Printf("export KUBECONFIG=%s\nalias kubectl=%s\n", w.Kubeconfig, w.Kubectl())
	for _, n := range w.Nodes {
		fmt.Printf("%s: %s\n", n.Name, n.Shell())
	}
	fmt.Println("Ctrl-C removes everything.")
	<-ctx.Done()
	return nil
}
