// Command metactl is what an operator of meta-cni types. Linked as
// kubectl-meta into a folder of $PATH, it is `kubectl meta` too.
//
//	metactl ipam show|check|release|import-whereabouts
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/meta-cni/meta-cni/pkg/cli"
	"github.com/meta-cni/meta-cni/pkg/cli/ipam"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends us at once
	streams := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	root := cli.Root(os.Args[0], version(), streams, ipam.Command(streams))
	code := cli.Run(ctx, root, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
