package executor

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// given is a flag as it was written; load interprets it.
type given struct{ text string }

func (g *given) String() string     { return g.text }
func (g *given) Set(s string) error { g.text = s; return nil }
func (g *given) Type() string       { return "string" }

// Command returns the executor's command line. The first SIGTERM or SIGINT
// drains it, the second ends it at once.
func Command() *cobra.Command {
	command := &cobra.Command{
		Use:   "executor",
		Short: "Run jobs that a registry leases to this machine",
		Long: "The executor connects to a registry, takes as many runs as it has slots, performs\n" +
			"each in a child process, and keeps every result until the registry has stored it.\n\n" +
			"Each flag can also be given as an environment variable, such as " + env("token-file") + ",\n" +
			"or in the file named by --" + configFlag + " (YAML or JSON, names with underscores). Flags go before the\n" +
			"environment, and that before the file. Connections and the values allowed to\n" +
			"templates stand in the file only:\n\n" +
			"  connections:\n" +
			"    main: {kind: mongodb, uri_file: /run/secrets/mongodb, database: app}\n" +
			"  allow:\n" +
			"    database_cleanup: {collection: [users, logs]}",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: false,
	}
	flags := command.Flags()
	flags.Var(&given{}, configFlag, "file with the configuration (YAML or JSON)")
	for _, s := range settings {
		flags.Var(&given{}, s.name, s.usage)
		if s.isSwitch {
			flags.Lookup(s.name).NoOptDefVal = "true"
		}
	}
	command.RunE = func(command *cobra.Command, _ []string) error {
		written := map[string]string{}
		for _, name := range append(names(), configFlag) {
			if flag := command.Flags().Lookup(name); flag.Changed {
				written[name] = flag.Value.String()
			}
		}
		config, err := load(written, os.LookupEnv)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(command.Context())
		defer cancel()
		signals := make(chan os.Signal, 2)
		signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
		defer signal.Stop(signals)
		drain := make(chan struct{})
		config.Drain = drain
		go func() {
			select {
			case <-signals:
				close(drain)
			case <-ctx.Done():
				return
			}
			select {
			case <-signals:
				cancel()
			case <-ctx.Done():
			}
		}()
		return Run(ctx, config)
	}
	command.AddCommand(&cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(command.OutOrStdout(), version())
			return err
		},
	})
	return command
}

func names() []string {
	all := make([]string, len(settings))
	for i, s := range settings {
		all[i] = s.name
	}
	return all
}
