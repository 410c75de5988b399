package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-scheduler/almanac/pkg/telemetry"
	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
)

func migrateCommand() *cobra.Command {
	var cfg Config
	var from, to string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "migrate --from STORE --to STORE",
		Short: "Copy everything from one store to another, and verify that both hold the same",
		Long: "Copies everything that the registries keep from one store to another: jobs, with those that\n" +
			"were deleted; executions with their attempts and logs; templates, users, tokens, the audit\n" +
			"log, and the sessions of executors, which go on with what they run. Then it reads both back\n" +
			"and compares them, record by record.\n\n" +
			"Stop the registries of both stores first; executors may stay. The source is left as it is.\n" +
			"The target is empty, or holds part of such a copy: where it holds anything else, that is\n" +
			"named and nothing is copied. So the command may be repeated: one that was interrupted goes on,\n" +
			"and one that is repeated changes nothing and verifies again.\n\n" +
			"Start registries on the target only after `verified equal`, and none on the source any more.\n\n" +
			"The flags --store-... are for the MongoDB on either side.",
		Example: "  registry migrate --from sqlite:/var/lib/almanac --to 'mongodb://db.example/almanac?replicaSet=rs0'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("store") {
				return errors.New("--store: say --from and --to instead")
			}
			if err := fill(cmd.Flags(), settings(), os.LookupEnv); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			source, target := cfg, cfg
			source.Store, target.Store = from, to
			counts, err := migrate(ctx, source, target, dryRun, cmd.ErrOrStderr())
			if errors.Is(err, context.Canceled) && ctx.Err() != nil {
				return errors.New("interrupted: say the same again to go on")
			}
			if err != nil {
				return err
			}
			return tellMoved(cmd.OutOrStdout(), counts, dryRun)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "store to copy, as for --store (required)")
	cmd.Flags().StringVar(&to, "to", "", "store to copy to, as for --store (required)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "compare and count only, write nothing")
	for _, required := range []string{"from", "to"} {
		_ = cmd.MarkFlagRequired(required) // fails only for a flag that does not exist
	}
	cfg.bindStore(cmd.Flags())
	_ = cmd.Flags().MarkHidden("store") // the same
	cmd.Flags().DurationVar(&cfg.SessionTTL, "session-ttl", 5*time.Second, "that of the registries; so long is waited to see whether one still lives")
	return cmd
}

// migrate copies one store to another, or with dryRun only compares them.
func migrate(ctx context.Context, source, target Config, dryRun bool, progress io.Writer) (counts []move.Count, err error) {
	if source.Store == target.Store {
		return nil, errors.New("--to: is the same store as --from")
	}
	log, err := telemetry.NewLogger(os.Stderr, source.LogFormat, source.LogLevel)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Sync() }()
	if source.SessionTTL < time.Second || source.SessionTTL > 10*time.Minute {
		return nil, fmt.Errorf("--session-ttl: must be from 1s to 10m, not %s", source.SessionTTL)
	}
	// A store that is opened is made where there is none.
	if err := source.storeIsThere(); err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	if dryRun {
		if err := target.storeIsThere(); err != nil {
			return nil, fmt.Errorf("--to: %w; without --dry-run it is made", err)
		}
	}
	var sides [2]move.Store
	for i, cfg := range []Config{source, target} {
		name := []string{"--from", "--to"}[i]
		s, err := openStore(ctx, cfg, log)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		side, ok := s.(move.Store)
		if !ok {
			return nil, fmt.Errorf("%s: a %T cannot be moved", name, s)
		}
		sides[i] = side
	}
	return move.Run(ctx, timed(move.Move{From: sides[0], To: sides[1], DryRun: dryRun, Progress: progress}, source.SessionTTL))
}

// tellMoved says what became of each kind.
func tellMoved(out io.Writer, counts []move.Count, dryRun bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tin the source\tthere before\tcopied\t")
	for _, c := range counts {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", c.Kind, c.Source, c.Before, c.Copied)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	text := "verified equal"
	if dryRun {
		text = "dry run: nothing was written"
	}
	_, err := fmt.Fprintln(out, text)
	return err
}
