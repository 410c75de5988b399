package executor

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// given is a flag as it was written; load interprets it. One that is a list may
// be written several times.
type given struct {
	text   string
	isList bool
}

func (g *given) String() string { return g.text }
func (g *given) Type() string   { return "string" }

func (g *given) Set(s string) error {
	if g.isList && g.text != "" {
		s = g.text + "," + s
	}
	g.text = s
	return nil
}

// singular lets the flags that are lists be written as what each item is.
func singular(_ *pflag.FlagSet, flag string) pflag.NormalizedName {
	switch flag {
	case "registry":
		flag = "registries"
	case "label":
		flag = "labels"
	}
	return pflag.NormalizedName(flag)
}

// Command returns the executor's command line. The first SIGTERM or SIGINT
// drains it, the second ends it at once.
func Command() *cobra.Command {
	command := &cobra.Command{
		Use:   "executor",
		Short: "Run jobs that registries lease to this machine",
		Long: "The executor connects to all registries, takes as many runs as it has slots, performs\n" +
			"each in a child process, and keeps every result until a registry has stored it.\n" +
			"Lists can also be given item by item: --registry a:9090 --registry b:9090, --label zone=a.\n\n" +
			"Each flag can also be given as an environment variable, such as " + env("token-file") + ",\n" +
			"or in the file named by --" + configFlag + " (YAML or JSON, names with underscores). Flags go before the\n" +
			"environment, and that before the file. Connections, the values allowed to\n" +
			"templates and their settings stand in the file only:\n\n" +
			"  connections:\n" +
			"    main: {kind: mongodb, uri_file: /run/secrets/mongodb, database: app}\n" +
			"    exports: {kind: bucket, uri: \"file:///srv/exports\"}\n" +
			"    offsite: {kind: bucket, uri: \"s3://bucket?region=eu-central-1\", key_file: ..., secret_file: ...}\n" +
			"    mail: {kind: smtp, uri: \"smtp://user@host:587?tls=starttls\", secret_file: ..., from: jobs@example.com}\n" +
			"    chat: {kind: webhook, uri_file: /run/secrets/chat}\n" +
			"    history: {kind: registry, uri: \"https://registry.example.com\", secret_file: ...}\n" +
			"  allow:\n" +
			"    database_cleanup: {collection: [users, logs]}\n" +
			"  templates:\n" +
			"    some_template: {some_text: {file: /etc/almanac/text}, some_number: 3}\n\n" +
			"A run gets only the connections that its parameters name. A folder that is a\n" +
			"bucket must exist. When the executor is root, its runs are the user 65534; at the\n" +
			"start that user's group becomes the folder's, with permission to write, and the\n" +
			"folders above it must be open to that user.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: false,
	}
	flags := command.Flags()
	flags.SetNormalizeFunc(singular)
	flags.Var(&given{}, configFlag, "file with the configuration (YAML or JSON)")
	for _, s := range settings {
		flags.Var(&given{isList: s.isList}, s.name, s.usage)
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
