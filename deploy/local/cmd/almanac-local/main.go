// Command almanac-local runs a whole Almanac on this machine, and measures one.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/bench"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/demo"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/local"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/mailsink"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends this process at once, and its children with it.
	context.AfterFunc(ctx, stop)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "almanac-local:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "almanac-local",
		Short:         "Run a whole Almanac on this machine, show or measure one",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), benchCommand(), demoCommand(), mailSinkCommand(), webhookReceiverCommand())
	return root
}

func benchCommand() *cobra.Command {
	var config bench.Config
	command := &cobra.Command{
		Use:   "bench",
		Short: "Measure throughput and lateness, and print them",
		Long: "Bench measures a registry and an executor that run as processes of their own and talk over\n" +
			"loopback, with full records in SQLite (synchronous=FULL). Every figure comes from the records,\n" +
			"which are read back and counted. Parts: " + strings.Join(bench.Parts(), ", ") + ".",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			config.Bin = filepath.Dir(self)
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(400) // like those it measures, with whom it shares the cores
			}
			return bench.Run(cmd.Context(), config, cmd.OutOrStdout())
		},
	}
	flags := command.Flags()
	flags.StringSliceVar(&config.Only, "only", nil, "parts to measure (default all)")
	flags.IntVar(&config.Jobs, "jobs", 0, "how many jobs (for run-now: runs) instead of each part's usual number")
	flags.IntVar(&config.Seconds, "seconds", 30, "how long the steady part lasts")
	flags.IntVar(&config.Slots, "slots", bench.Slots, "how many no-op runs the executor takes at a time")
	flags.StringVar(&config.Dir, "dir", filepath.Join(".cache", "bench"), "folder for the data, on the disk to be measured; emptied afterwards")
	return command
}

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show what the templates and notifications do; Ctrl-C stops it",
		Long: "Demo starts a system of its own in a temporary folder, asks its API for exports, mail, webhooks,\n" +
			"backups, alerts and reports, tells what comes of it, and ends with a count of checks. Its exit\n" +
			"status is 0 when all of them were good.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return demo.Run(cmd.Context(), filepath.Dir(self), cmd.OutOrStdout())
		},
	}
}

func mailSinkCommand() *cobra.Command {
	var listen, dir, ready string
	command := &cobra.Command{
		Use:   "mail-sink",
		Short: "Take mail and keep it in a folder; Ctrl-C stops it",
		Long: "Mail-sink is a mail server that keeps every message as a file and delivers none. It refuses\n" +
			mailsink.Nobody + "@ for good, and puts off addresses that begin with " + mailsink.RefusedOnce + " until they are asked for again.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sink, err := mailsink.New(dir, time.Now)
			if err != nil {
				return err
			}
			return serveOn(cmd.Context(), listen, ready, sink.Serve)
		},
	}
	flags := command.Flags()
	flags.StringVar(&listen, "listen", "127.0.0.1:2525", "address to listen on; port 0 picks one")
	flags.StringVar(&dir, "dir", filepath.Join(".data", "mail"), "folder for the messages")
	flags.StringVar(&ready, "ready-file", "", "file that is written with the address once it listens")
	return command
}

// serveOn listens, says where in the ready file, if there is one, and serves.
func serveOn(ctx context.Context, listen, ready string, serve func(context.Context, net.Listener) error) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	if ready != "" {
		if err := tellReady(ready, listener.Addr().String()); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	return serve(ctx, listener)
}

// tellReady writes a file at once, so that no reader sees half of it.
func tellReady(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func runCommand() *cobra.Command {
	var config local.Config
	var executors, replicas string
	run := &cobra.Command{
		Use:   "run",
		Short: "Start the local system; Ctrl-C stops it",
		Long: "Run starts registries, executors and a MongoDB stand-in with sample data as processes of\n" +
			"their own, and restarts what dies after a second. The first start makes the users and ten\n" +
			"jobs; later ones go on with the same jobs and history.\n\n" +
			"The store mongodb lets registries be several. It is a second stand-in, unless the environment\n" +
			"names a real server (a replica set) in ALMANAC_MONGODB_URI, with the database as its path.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			config.Bin = filepath.Dir(self)
			if config.Executors, err = strconv.Atoi(executors); err != nil {
				return fmt.Errorf("the number of executors is %q: give a whole number (--executors or ALMANAC_EXECUTORS)", executors)
			}
			if config.Replicas, err = strconv.Atoi(replicas); err != nil || config.Replicas < 1 {
				return fmt.Errorf("the number of registries is %q: give a whole number of at least 1 (--replicas or ALMANAC_REPLICAS)", replicas)
			}
			config.MongoDBURI = os.Getenv("ALMANAC_MONGODB_URI") // no flag: it may hold a password
			return local.Run(cmd.Context(), config, cmd.OutOrStdout())
		},
	}
	flags := run.Flags()
	setting(flags.StringVar, &config.HTTPAddr, "http-addr", "ALMANAC_HTTP_ADDR", "127.0.0.1:8080", "address of the first registry's REST API; port 0 picks one")
	setting(flags.StringVar, &config.GRPCAddr, "grpc-addr", "ALMANAC_GRPC_ADDR", "127.0.0.1:9090", "address of the first registry's gRPC services; port 0 picks one")
	setting(flags.StringVar, &config.Dir, "data-dir", "ALMANAC_DATA_DIR", ".data", "folder with everything that is kept")
	setting(flags.StringVar, &config.Store, "store", "ALMANAC_STORE", system.SQLite, "where the registries keep their data: "+system.SQLite+" or "+system.MongoDB)
	setting(flags.StringVar, &replicas, "replicas", "ALMANAC_REPLICAS", "1", "how many registries; more than one need the store "+system.MongoDB)
	setting(flags.StringVar, &executors, "executors", "ALMANAC_EXECUTORS", "2", "how many executors")
	unlimited, _ := strconv.ParseBool(os.Getenv("ALMANAC_UNLIMITED")) // anything else is no
	flags.BoolVar(&config.Unlimited, "unlimited", unlimited, "lift the limits on jobs, manual runs an hour and lines of a log (ALMANAC_UNLIMITED)")
	return run
}

// setting defines a flag whose default comes from the environment.
func setting(define func(p *string, name, value, usage string), field *string, name, variable, fallback, usage string) {
	value := os.Getenv(variable)
	if value == "" {
		value = fallback
	}
	define(field, name, value, usage+" ("+variable+")")
}
