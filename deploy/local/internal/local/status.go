package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// StatusFile is the file in the data folder that exists while the system is up,
// and tells programs what the terminal tells people.
const StatusFile = "local.json"

// Status is the content of the StatusFile.
type Status struct {
	// HTTP is the base of the first registry's REST API, GRPC is host:port.
	HTTP string `json:"http"`
	GRPC string `json:"grpc"`
	// Registries are all of them.
	Registries []system.Endpoint `json:"registries"`
	// MongoDBURI is where the sample data are.
	MongoDBURI string `json:"mongodb_uri"`
	// MailDir has each message that was sent as a file *.eml.
	MailDir string `json:"mail_dir"`
	// WebhookURL is where webhooks are received, WebhookDir has each as a file *.json.
	WebhookURL string `json:"webhook_url"`
	WebhookDir string `json:"webhook_dir"`
	// BucketDir has what exports, backups and reports wrote.
	BucketDir string       `json:"bucket_dir"`
	Users     system.Users `json:"users"`
	// Processes has the current id of each process by its name.
	Processes map[string]int `json:"processes"`
}

// writeStatus replaces the file at once, so that no reader sees half of it.
func writeStatus(dir string, s *system.System) error {
	content, err := json.MarshalIndent(Status{
		HTTP: s.HTTP, GRPC: s.GRPC, Registries: s.Registries, MongoDBURI: s.MongoDB, MailDir: s.MailDir,
		WebhookURL: s.WebhookURL(), WebhookDir: s.WebhookDir, BucketDir: s.BucketDir, Users: s.Users, Processes: s.PIDs(),
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", StatusFile, err)
	}
	path := filepath.Join(dir, StatusFile)
	if err := os.WriteFile(path+".new", append(content, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func removeStatus(dir string) error {
	if err := os.Remove(filepath.Join(dir, StatusFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
