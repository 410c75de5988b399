package system

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// reportsTokenFile is in the folder of a store, and has what reports show the
// registry to read its history.
const reportsTokenFile = "reports-token"

// collections are those of the sample data, and restoredNames what restore may
// call them.
var (
	collections   = []string{"users", "sessions", "logs", "messages", "tickets"}
	restoredNames = []string{"users_restored", "sessions_restored", "logs_restored", "messages_restored", "tickets_restored"}
)

// makeBucket makes the bucket's folder. When we are root, runs are another user's,
// who must be able to pass through the folders on the way there. The data folder is
// opened that far, for all that is secret in it is closed by itself; when one above
// it is not for others, as root's home is, the bucket is a temporary folder to which
// a link leads.
func (s *System) makeBucket() error {
	s.BucketDir = s.path("bucket")
	if os.Getuid() == 0 {
		if err := os.Chmod(s.config.Dir, 0o711); err != nil { //nolint:gosec // others pass through, and see nothing
			return fmt.Errorf("bucket folder: %w", err)
		}
		if closedAbove(s.BucketDir) != "" {
			return s.bucketElsewhere()
		}
	}
	if err := os.MkdirAll(s.BucketDir, 0o700); err != nil {
		return fmt.Errorf("bucket folder: %w", err)
	}
	return nil
}

func (s *System) bucketElsewhere() error {
	link := s.BucketDir
	if target, err := os.Readlink(link); err == nil {
		if info, err := os.Stat(target); err == nil && info.IsDir() {
			s.BucketDir = target
			return nil
		}
		// What cleans temporary folders has been there.
		if err := os.Remove(link); err != nil {
			return fmt.Errorf("bucket folder: %w", err)
		}
	}
	folder, err := os.MkdirTemp("", "almanac-bucket-")
	if err != nil {
		return fmt.Errorf("bucket folder: %w", err)
	}
	s.BucketDir = folder
	if closed := closedAbove(folder); closed != "" {
		err = fmt.Errorf("runs are another user's, and cannot enter %s: choose another folder with TMPDIR", closed)
	} else {
		err = os.Symlink(folder, link)
	}
	if err != nil {
		return fmt.Errorf("bucket folder: %w", errors.Join(err, os.Remove(folder)))
	}
	return nil
}

// closedAbove returns the first folder above path that other users cannot pass
// through, or "".
func closedAbove(path string) string {
	for folder := filepath.Dir(path); ; folder = filepath.Dir(folder) {
		info, err := os.Stat(folder)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return folder
		}
		if folder == filepath.Dir(folder) {
			return ""
		}
	}
}

// prepareReports makes the token for reports, unless an earlier start has done it.
func (s *System) prepareReports(ctx context.Context, users Users) error {
	path := filepath.Join(s.Folder(), reportsTokenFile)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	config := s.path("run", "reports.json")
	if err := writeJSON(config, s.registrySettings(s.Folder())); err != nil {
		return err
	}
	token, err := s.registryCommand(ctx, "", "token", "create", "--config", config, "--user", users.Admin.Username, "--purpose", "reports")
	if err != nil {
		return fmt.Errorf("the token for reports: %w", err)
	}
	if err := os.WriteFile(path+".new", []byte(strings.TrimSpace(token)+"\n"), 0o600); err != nil {
		return err
	}
	return errors.Join(os.Rename(path+".new", path), os.Remove(config))
}

// bucketConnection leads to the bucket's folder, as an executor is configured.
func (s *System) bucketConnection() map[string]any {
	return map[string]any{"kind": "bucket", "uri": (&url.URL{Scheme: "file", Path: s.BucketDir}).String()}
}

// historyConnection leads to the first registry's own history.
func (s *System) historyConnection() map[string]any {
	return map[string]any{"kind": "registry", "uri": s.HTTP, "secret_file": filepath.Join(s.Folder(), reportsTokenFile)}
}

// allowed are the collections that each template may touch.
func allowed() map[string]any {
	only := func(names ...string) map[string]any { return map[string]any{"collection": names} }
	return map[string]any{
		"backup":            only(collections...),
		"data_export":       only(slices.Concat(collections, restoredNames)...),
		"database_cleanup":  only("users", "sessions", "logs", "messages"),
		"report_generation": only(collections...),
		"restore":           only(slices.Concat(collections, restoredNames)...),
		"ticket_cleanup":    only("tickets"),
	}
}
