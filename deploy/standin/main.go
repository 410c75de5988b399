// Standin serves MongoDB's wire protocol from SQLite files, for developers' and build machines that
// have no MongoDB server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/almanac-scheduler/almanac/deploy/standin/internal/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr, time.Now)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

// run serves as the arguments say until ctx ends.
func run(ctx context.Context, args []string, stderr io.Writer, clock func() time.Time) error {
	flags := flag.NewFlagSet("standin", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:27017", "`address` to serve; port 0 picks a free one")
	data := flags.String("data", "", "`folder` that keeps the databases (required)")
	readyFile := flags.String("ready-file", "", "`file` that gets the mongodb:// URI once clients are served; removed at the end")
	seed := flags.String("seed", "", "`database` to fill with sample data, unless it has them")
	seedAt := flags.String("seed-at", "", "`time` (RFC 3339) that the sample data lead up to (default now)")
	control := flags.String("control", "", "`address` on the loopback interface over which tests set faults, such as 127.0.0.1:0 (default none)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: everything is given by flags", flags.Arg(0))
	}
	if *data == "" {
		return errors.New("--data is missing: name the folder that keeps the databases")
	}
	at := clock()
	if *seedAt != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, *seedAt); err != nil {
			return fmt.Errorf("--seed-at %q is no RFC 3339 time such as 2026-01-31T12:00:00Z", *seedAt)
		}
	}

	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.Lock(zapcore.AddSync(stderr)), zap.InfoLevel))

	served, err := server.Open(ctx, server.Config{
		Listen:       *listen,
		DataDir:      *data,
		SeedDatabase: *seed,
		SeedAt:       at,
		ReadyFile:    *readyFile,
		Control:      *control,
		Logger:       logger,
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to end while it started
		}
		return err
	}
	defer served.Close()
	return served.Serve(ctx)
}
