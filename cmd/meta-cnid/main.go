// Command meta-cnid is the node daemon of meta-cni. It answers the plugin's
// requests on a unix socket, keeps 00-meta.conf, and publishes what pods got.
//
//	meta-cnid run [--config FILE]        the daemon
//	meta-cnid oneshot                    one request on standard input, for thin mode
//	meta-cnid conf [--config FILE]       write 00-meta.conf for thin mode, once
//	meta-cnid health [--config FILE] [--ready]
//	meta-cnid install --from DIR --to DIR[,DIR…]
//	meta-cnid version
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/daemon"
	"github.com/meta-cni/meta-cni/pkg/install"
)

const usage = "usage: meta-cnid run|oneshot|conf|health|install|version [flags]; meta-cnid <command> -h tells the flags"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends us at once
	err := command(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "meta-cnid:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "-h", "--help", "help":
		_, err := fmt.Fprintln(out, usage)
		return err
	case "run":
		return run(ctx, args[1:])
	case "oneshot":
		return daemon.Oneshot(ctx, in, out, newLogger(slog.LevelWarn))
	case "conf":
		return conf(ctx, args[1:])
	case "health":
		return health(ctx, args[1:])
	case "install":
		return installBinaries(ctx, args[1:])
	case "version":
		_, err := fmt.Fprintln(out, version())
		return err
	default:
		return fmt.Errorf("command %q is unknown; %s", args[0], usage)
	}
}

func run(ctx context.Context, args []string) error {
	cfg, err := readConfig("run", args, nil)
	if err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return err
	}
	log := newLogger(level)
	klog.SetSlogLogger(log) // client-go's own messages
	if err := daemon.PrepareHost(log); err != nil {
		return err
	}
	log.Info("meta-cnid starts", "version", version(), "mode", cfg.Mode, "node", cfg.NodeName)
	return daemon.Run(ctx, cfg, log)
}

// newLogger writes JSON to standard error; the container's runtime keeps it.
func newLogger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func conf(ctx context.Context, args []string) error {
	cfg, err := readConfig("conf", args, nil)
	if err != nil {
		return err
	}
	return daemon.WriteThinConf(ctx, cfg, newLogger(slog.LevelInfo))
}

func health(ctx context.Context, args []string) error {
	endpoint := "healthz"
	cfg, err := readConfig("health", args, func(flags *flag.FlagSet) {
		flags.BoolFunc("ready", "ask whether an ADD could work", func(string) error {
			endpoint = "readyz"
			return nil
		})
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return daemon.AskHealth(ctx, filepath.Join(cfg.RunDir, "health.sock"), endpoint)
}

// readConfig reads the daemon's file; a missing --config means all defaults.
func readConfig(name string, args []string, more func(*flag.FlagSet)) (config.Daemon, error) {
	flags := flag.NewFlagSet("meta-cnid "+name, flag.ContinueOnError)
	path := flags.String("config", "", "the daemon's configuration file (YAML)")
	if more != nil {
		more(flags)
	}
	if err := flags.Parse(args); err != nil {
		return config.Daemon{}, err
	}
	var data []byte
	if *path != "" {
		var err error
		if data, err = os.ReadFile(*path); err != nil {
			return config.Daemon{}, err
		}
	}
	cfg, err := config.ParseDaemon(data)
	if err != nil {
		return config.Daemon{}, err
	}
	return withNodeName(cfg)
}

func withNodeName(cfg config.Daemon) (config.Daemon, error) {
	if cfg.NodeName == "" {
		cfg.NodeName = os.Getenv("NODE_NAME")
	}
	if cfg.NodeName != "" {
		return cfg, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return config.Daemon{}, fmt.Errorf("nodeName: not set and the host's name is unknown: %w", err)
	}
	cfg.NodeName = strings.ToLower(host)
	return cfg, nil
}

func installBinaries(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("meta-cnid install", flag.ContinueOnError)
	from := flags.String("from", "/opt/meta-cni", "folder that holds meta-cni")
	to := flags.String("to", "/opt/cni/bin", "plugin folders, separated by commas")
	names := install.Names()
	flags.BoolFunc("whereabouts", "also answer to the name whereabouts", func(string) error {
		names = append(names, install.Whereabouts)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	installer := install.Installer{Names: names, Log: newLogger(slog.LevelInfo)}
	return installer.Binaries(ctx, *from, strings.Split(*to, ","))
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
