package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/webhooks"
)

func webhookReceiverCommand() *cobra.Command {
	var listen, dir, secretFile, ready string
	command := &cobra.Command{
		Use:   "webhook-receiver",
		Short: "Take webhooks and keep them in a folder; Ctrl-C stops it",
		Long: "Webhook-receiver keeps every HTTP request as a JSON file and answers with 200, but for\n" +
			"/status/<code>, which is answered with that code, /fail-once, which fails the first request with\n" +
			"an Idempotency-Key, and /redirect?to=<address>.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var secret string
			if secretFile != "" {
				content, err := os.ReadFile(secretFile)
				if err != nil {
					return fmt.Errorf("--secret-file: %w", err)
				}
				secret = strings.TrimSpace(string(content))
			}
			receiver, err := webhooks.New(dir, secret, time.Now)
			if err != nil {
				return err
			}
			return serveOn(cmd.Context(), listen, ready, receiver.Serve)
		},
	}
	flags := command.Flags()
	flags.StringVar(&listen, "listen", "127.0.0.1:2580", "address to listen on; port 0 picks one")
	flags.StringVar(&dir, "dir", filepath.Join(".data", "webhooks"), "folder for the requests")
	flags.StringVar(&secretFile, "secret-file", "", "file with the key by which signatures are checked")
	flags.StringVar(&ready, "ready-file", "", "file that is written with the address once it listens")
	return command
}
