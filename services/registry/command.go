package registry

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
)

// Command returns the registry's command line.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:   "registry",
		Short: "Keep job definitions, decide when they run, and lease their runs to executors",
		Long: "The registry keeps the definitions of jobs, decides when they run, and leases their\n" +
			"runs to executors. `registry serve` starts it; the other commands look after its users\n" +
			"and its store.\n\n" +
			"Each flag can also be given as an environment variable, such as " + env("http-addr") + ",\n" +
			"or in the file named by --" + configFlag + " (YAML or JSON, names with underscores). Flags go\n" +
			"before the environment, and that before the file. Secrets are given by file only.",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         help,
	}
	root.AddCommand(serveCommand(), userCommand(), tokenCommand(), migrateCommand(), versionCommand())
	return root
}

// help runs a command that only groups others, so that a mistyped one is an error.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// settings lists what a configuration file may hold, for whatever command.
func settings() []string {
	var all []string
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	c := &Config{}
	c.bind(flags)
	c.bindStore(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != configFlag {
			all = append(all, f.Name)
		}
	})
	return all
}

func serveCommand() *cobra.Command {
	cfg := Config{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve REST and gRPC until SIGTERM or SIGINT",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fill(cmd.Flags(), settings(), os.LookupEnv); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return Run(ctx, cfg)
		},
	}
	cfg.bind(cmd.Flags())
	cfg.bindStore(cmd.Flags())
	return cmd
}

func userCommand() *cobra.Command {
	parent := &cobra.Command{Use: "user", Short: "Look after the registry's users", Args: cobra.NoArgs, RunE: help}
	cfg := Config{}
	var role string
	add := &cobra.Command{
		Use:   "add --role ROLE NAME",
		Short: "Add a user; the password is read from standard input",
		Long: "Adds a user. The password (at least 12 characters) is read from the terminal, or as the\n" +
			"first line of standard input; it is never an argument, which others could see.\n\n" +
			"Roles: super_admin does everything; admin sees everything and runs what destroys nothing;\n" +
			"user has no access to the management of jobs.",
		Example: "  registry user add --store sqlite:/var/lib/almanac --role super_admin alice",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fill(cmd.Flags(), settings(), os.LookupEnv); err != nil {
				return err
			}
			if !slices.Contains(access.Roles, access.Role(role)) {
				return fmt.Errorf("--role: %q is not known: use super_admin, admin or user", role)
			}
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			err = withGuard(cmd.Context(), cfg, func(g *access.Guard) error {
				_, err := g.AddUser(cmd.Context(), args[0], access.Role(role), password, operator(), "local")
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "added %s as %s\n", args[0], role)
			return nil
		},
	}
	add.Flags().StringVar(&role, "role", "", "super_admin, admin or user (required)")
	_ = add.MarkFlagRequired("role") // fails only for a flag that does not exist
	cfg.bindStore(add.Flags())
	parent.AddCommand(add)
	return parent
}

func tokenCommand() *cobra.Command {
	parent := &cobra.Command{Use: "token", Short: "Look after access tokens", Args: cobra.NoArgs, RunE: help}
	cfg := Config{}
	var name, purpose string
	var lifetime time.Duration
	create := &cobra.Command{
		Use:   "create --user NAME",
		Short: "Make a token for a user and print it, once",
		Long: "Makes a token with the user's rights and prints it on standard output. Only its hash is\n" +
			"kept, so it cannot be shown again.",
		Example: "  registry token create --user alice --expires 720h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fill(cmd.Flags(), settings(), os.LookupEnv); err != nil {
				return err
			}
			var expires time.Time
			switch {
			case lifetime < 0:
				return fmt.Errorf("--expires: must be a time to come such as 720h, or 0 for never, not %s", lifetime)
			case lifetime > 0:
				expires = expiry(lifetime)
			}
			return withGuard(cmd.Context(), cfg, func(g *access.Guard) error {
				_, secret, err := g.CreateToken(cmd.Context(), name, purpose, expires, operator(), "local")
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), secret)
				return err
			})
		},
	}
	create.Flags().StringVar(&name, "user", "", "whose rights the token gives (required)")
	create.Flags().StringVar(&purpose, "purpose", "command line", "what the token is for, for people")
	create.Flags().DurationVar(&lifetime, "expires", 0, "for how long the token is good, such as 720h; 0 for ever")
	_ = create.MarkFlagRequired("user") // fails only for a flag that does not exist
	cfg.bindStore(create.Flags())
	parent.AddCommand(create)
	return parent
}

// build is the version of this program and that of Go that built it.
func build() (version, goVersion string) {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version, info.GoVersion
	}
	return "unknown", "unknown"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version, goVersion := build()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "registry %s (%s)\n", version, goVersion)
			return err
		},
	}
}

// readPassword asks on a terminal, twice and without echo; otherwise it takes the
// first line.
func readPassword(in io.Reader, prompt io.Writer) (string, error) {
	if file, ok := in.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		var typed [2]string
		for i, text := range []string{"Password: ", "Again: "} {
			fmt.Fprint(prompt, text)
			line, err := term.ReadPassword(int(file.Fd()))
			fmt.Fprintln(prompt)
			if err != nil {
				return "", fmt.Errorf("read the password: %w", err)
			}
			typed[i] = string(line)
		}
		if typed[0] != typed[1] {
			return "", errors.New("the two passwords differ: try again")
		}
		return typed[0], nil
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if password == "" {
		return "", errors.New("no password: give it as the first line of standard input")
	}
	return password, nil
}

// operator names the person at the machine, for the audit log.
func operator() string {
	if u, err := user.Current(); err == nil {
		return "command line (" + u.Username + ")"
	}
	return "command line"
}
