package system

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Files in the folder of a store.
const (
	tokenFile   = "executor-token" // what executors show
	secretsFile = "secrets.json"   // users and their passwords
)

// passwordFile is where registries read the password of a MongoDB server.
const passwordFile = "mongodb-password"

// secrets is what the first start made up.
type secrets struct {
	Users Users `json:"users"`
}

// storage says where registries keep their data.
type storage struct {
	folder             string // see Folder
	uri                string // MongoDB only, without credentials
	username, password string
	standin            bool
}

// storageOf tells where a system keeps its data; of a stand-in the URI is still
// unknown.
func storageOf(c Config) (storage, error) {
	switch {
	case c.Store == SQLite:
		return storage{folder: "registry"}, nil
	case c.MongoDBURI == "":
		return storage{folder: "registry-mongodb", standin: true}, nil
	}
	store, err := splitCredentials(c.MongoDBURI)
	sum := sha256.Sum256([]byte(store.uri))
	store.folder = "registry-mongodb-" + hex.EncodeToString(sum[:4])
	return store, err
}

// Folder has what belongs to the registries' store and is of no use with another:
// the secrets of its first start and, for SQLite, the data. Each store has its own.
func (s *System) Folder() string { return s.path(s.store.folder) }

// startKeeper starts the stand-in that is the store, if it is one.
func (s *System) startKeeper(ctx context.Context) error {
	if !s.store.standin {
		return nil
	}
	data := s.path("store-mongodb")
	if _, err := os.Stat(s.Folder()); errors.Is(err, os.ErrNotExist) {
		// What is there is of a first start that was interrupted: nobody has the
		// passwords of its users.
		if err := os.RemoveAll(data); err != nil {
			return fmt.Errorf("first start: %w", err)
		}
	}
	keeper, err := s.startStandin(Keeper, data)
	if err != nil {
		return err
	}
	uri, err := s.standinUp(ctx, keeper)
	s.store.uri = strings.TrimSuffix(uri, "/") + "/almanac"
	return err
}

// splitCredentials takes a password, and its user, out of a URI: it belongs into a
// file that nobody else can read.
func splitCredentials(uri string) (storage, error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok || scheme != "mongodb" && scheme != "mongodb+srv" {
		return storage{}, errors.New("ALMANAC_MONGODB_URI must begin with mongodb:// or mongodb+srv://")
	}
	hosts, after, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(hosts, '@')
	username, password, secret := strings.Cut(hosts[:max(at, 0)], ":")
	if !secret {
		return storage{uri: uri}, nil
	}
	store := storage{uri: scheme + "://" + hosts[at+1:] + "/" + after}
	var err1, err2 error
	store.username, err1 = url.PathUnescape(username)
	store.password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return storage{}, errors.New("ALMANAC_MONGODB_URI: the user or the password is not percent-encoded as it must be in a URI")
	}
	return store, nil
}

// registrySettings configures a registry on the store whose folder this is.
func (s *System) registrySettings(folder string) map[string]any {
	settings := map[string]any{
		"store":               "sqlite:" + filepath.Join(folder, "store"),
		"executor_token_file": filepath.Join(folder, tokenFile),
		"plaintext":           true,
	}
	if s.store.uri != "" {
		settings["store"] = s.store.uri
		if s.store.standin { // it is no replica set
			settings["store_allow_standalone"] = true
		}
		if s.store.username != "" {
			settings["store_username"] = s.store.username
			settings["store_password_file"] = s.path("run", passwordFile)
		}
	}
	return settings
}

// prepare makes the store's folder with its secrets at the first start, and
// reads them. The folder gets its name only when it is complete, so that an
// interrupted first start is simply made again.
func (s *System) prepare(ctx context.Context) (secrets, error) {
	if s.store.username != "" {
		if err := os.WriteFile(s.path("run", passwordFile), []byte(s.store.password+"\n"), 0o600); err != nil {
			return secrets{}, err
		}
	}
	folder := s.Folder()
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
