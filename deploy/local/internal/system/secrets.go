package system

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Files in the registry's folder.
const (
	tokenFile   = "executor-token" // what executors show
	secretsFile = "secrets.json"   // users and their passwords
)

// secrets is what the first start made up.
type secrets struct {
	Users Users `json:"users"`
}

// registrySettings configures a registry that keeps its data in the folder.
func (s *System) registrySettings(folder string) map[string]any {
	return map[string]any{
		"store":               "sqlite:" + filepath.Join(folder, "store"),
		"executor_token_file": filepath.Join(folder, tokenFile),
		"plaintext":           true,
	}
}

// prepare makes the registry's folder with its secrets at the first start, and
// reads them. The folder gets its name only when it is complete, so that an
// interrupted first start is simply made again.
func (s *System) prepare(ctx context.Context) (secrets, error) {
	folder := s.path("registry")
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		s.First = true
		begun := folder + ".begun"
		if err := os.RemoveAll(begun); err != nil {
			return secrets{}, fmt.Errorf("first start: %w", err)
		}
		if err := s.makeSecrets(ctx, begun); err != nil {
			return secrets{}, fmt.Errorf("first start: %w", err)
		}
		if err := os.Rename(begun, folder); err != nil {
			return secrets{}, fmt.Errorf("first start: %w", err)
		}
	}
	path := filepath.Join(folder, secretsFile)
	content, err := os.ReadFile(path)
	if err != nil {
		return secrets{}, fmt.Errorf("the passwords of the first start: %w (restore the file, or begin anew by removing %s)", err, s.config.Dir)
	}
	var known secrets
	if err := json.Unmarshal(content, &known); err != nil {
		return secrets{}, fmt.Errorf("the passwords of the first start: %s: %w", path, err)
	}
	return known, nil
}

// makeSecrets fills a new folder with a credential for the executors and with a
// user of each role, who is entered into the registry's store.
func (s *System) makeSecrets(ctx context.Context, folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, tokenFile), []byte(rand.Text()+rand.Text()+"\n"), 0o600); err != nil {
		return err
	}
	config := filepath.Join(folder, "registry.json")
	if err := writeJSON(config, s.registrySettings(folder)); err != nil {
		return err
	}
	var made secrets
	for _, one := range []struct {
		role string
		user *User
	}{{"super_admin", &made.Users.SuperAdmin}, {"admin", &made.Users.Admin}, {"user", &made.Users.User}} {
		*one.user = User{Username: one.role, Password: rand.Text()}
		if _, err := s.registryCommand(ctx, one.user.Password+"\n", "user", "add", "--config", config, "--role", one.role, one.role); err != nil {
			return err
		}
		token, err := s.registryCommand(ctx, "", "token", "create", "--config", config, "--user", one.role)
		if err != nil {
			return err
		}
		one.user.Token = strings.TrimSpace(token)
	}
	if err := os.Remove(config); err != nil { // it names the folder as it is called now
		return err
	}
	return writeJSON(filepath.Join(folder, secretsFile), made)
}

// registryCommand runs the registry's command line and returns what it printed.
func (s *System) registryCommand(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.config.Bin, "registry"), args...)
	cmd.Env = environment()
	cmd.Stdin = strings.NewReader(input)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	output, err := cmd.Output()
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%w (build it with: make build)", err)
	}
	if err != nil {
		return "", fmt.Errorf("registry %s: %w: %s", strings.Join(args[:2], " "), err, strings.TrimSpace(complaint.String()))
	}
	return string(output), nil
}
