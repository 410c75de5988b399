package system

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "ALMANAC_DATA_DIR") {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	unlock, err = Lock(dir)
	if err != nil {
		t.Fatalf("after it was given free: %v", err)
	}
	unlock()
}

func TestLastWords(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	for content, want := range map[string]string{
		"":         "",
		"one\n":    "one",
		"one\ntwo": "two",
		strings.Repeat("line\n", 5000) + "last\n": "last",
		strings.Repeat("x", 5000):                 strings.Repeat("x", 4096),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := LastWords(path); got != want {
			t.Errorf("of %d bytes: %.100q", len(content), got)
		}
	}
	if got := LastWords(filepath.Join(path, "missing")); got == "" {
		t.Error("a missing log must say that it is")
	}
}

func TestStandinReady(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ready")
	if _, err := standinReady(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	for content, want := range map[string]string{"mongodb://127.0.0.1:12": "", "mongodb://127.0.0.1:1234/\n": "mongodb://127.0.0.1:1234/"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := standinReady(path); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
}

// fakes makes a folder of binaries that are shell scripts. Tests that use it are
// not parallel: a process that another one forks at the wrong moment would keep a
// script open for writing, and it could not be run.
func fakes(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const cli = `case "$1" in user) cat >/dev/null; exit 0;; token) echo alm_token; exit 0;; esac; `

// TestStartSaysWhy starts systems whose parts cannot start.
func TestStartSaysWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		scripts map[string]string
		config  Config
		want    string
	}{
		"no binaries":           {nil, Config{}, "make build"},
		"no stand-in":           {map[string]string{"registry": cli}, Config{Standin: true}, "make build"},
		"no mail sink":          {map[string]string{"registry": cli}, Config{Mail: true}, "make build"},
		"mail sink dies":        {map[string]string{"registry": cli, "almanac-local": "echo no port; exit 1"}, Config{Mail: true}, "mail could not start (exit status 1): no port"},
		"user not added":        {map[string]string{"registry": "echo no such flag >&2; exit 1"}, Config{}, "registry user add: exit status 1: no such flag"},
		"registry dies":         {map[string]string{"registry": cli + "echo first; echo the disk is full; exit 3"}, Config{}, "registry-1 could not start (exit status 3): the disk is full"},
		"registry ends":         {map[string]string{"registry": cli + "echo well; exit 0"}, Config{}, "registry-1 could not start (it ended): well"},
		"address taken":         {nil, Config{HTTPAddr: taken.Addr().String()}, "is taken by another program"},
		"no address":            {nil, Config{GRPCAddr: "nonsense"}, "ALMANAC_GRPC_ADDR=nonsense"},
		"other store":           {nil, Config{Store: "postgres"}, "choose sqlite or mongodb"},
		"registries on SQLite":  {nil, Config{Replicas: 2}, "cannot share SQLite"},
		"no registries":         {nil, Config{Replicas: -1}, "at least 1"},
		"no MongoDB":            {nil, Config{Store: MongoDB, MongoDBURI: "http://x"}, "must begin with mongodb://"},
		"server refuses":        {map[string]string{"registry": "echo no rights >&2; exit 1"}, Config{Store: MongoDB, MongoDBURI: "mongodb://x"}, "no rights"},
		"stand-in dies":         {map[string]string{"registry": cli, "standin": "echo no space; exit 1"}, Config{Store: MongoDB}, "store could not start (exit status 1): no space"},
		"a file for the folder": {nil, Config{Dir: "/dev/null/x"}, "data folder"},
	} {
		config := c.config
		config.Bin = fakes(t, c.scripts)
		if config.Dir == "" {
			config.Dir = t.TempDir()
		}
		if s, err := Start(t.Context(), config); s != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStartIsInterrupted ends the wait for a registry that never gets ready.
func TestStartIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := Start(ctx, Config{Bin: fakes(t, map[string]string{"registry": cli + "exec sleep 100"}), Dir: t.TempDir()})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "registry-1 is not ready") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestFirstStartIsMadeAgain: what an interrupted first start left is not used.
func TestFirstStartIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	begun := filepath.Join(dir, "registry.begun")
	if err := os.MkdirAll(begun, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(begun, secretsFile), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &System{config: Config{Dir: dir, Bin: fakes(t, map[string]string{"registry": cli})}, store: storage{folder: "registry"}}
	made, err := s.prepare(t.Context())
	if err != nil || !s.First || made.Users.Admin.Username != "admin" || made.Users.Admin.Token != "alm_token" || len(made.Users.Admin.Password) < 20 {
		t.Fatalf("%+v, %v", made, err)
	}
	next := &System{config: s.config, store: s.store}
	if again, err := next.prepare(t.Context()); err != nil || next.First || again != made {
		t.Errorf("the next start: %+v, %v", again, err)
	}
	if _, err := os.Stat(begun); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the beginnings are still there: %v", err)
	}
	secrets := filepath.Join(dir, "registry", secretsFile)
	if err := os.WriteFile(secrets, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := next.prepare(t.Context()); err == nil || !strings.Contains(err.Error(), secretsFile) {
		t.Errorf("spoilt secrets: %v", err)
	}
	if err := os.Remove(secrets); err != nil {
		t.Fatal(err)
	}
	if _, err := next.prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("lost secrets: %v", err)
	}
}

func TestStorageOf(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]storage{
		"mongodb://h:1/db":                        {uri: "mongodb://h:1/db"},
		"mongodb://a:1,b:2":                       {uri: "mongodb://a:1,b:2"},
		"mongodb://only-user@h/db":                {uri: "mongodb://only-user@h/db"},
		"mongodb://u:p%40ss@a:1,b:2/db?tls=true":  {uri: "mongodb://a:1,b:2/db?tls=true", username: "u", password: "p@ss"},
		"mongodb+srv://me%3A:s3cret@cluster/?w=1": {uri: "mongodb+srv://cluster/?w=1", username: "me:", password: "s3cret"},
	} {
		got, err := storageOf(Config{Store: MongoDB, MongoDBURI: uri})
		want.folder = got.folder
		if err != nil || got != want || !strings.HasPrefix(got.folder, "registry-mongodb-") {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
	}
	folder := func(store, uri string) string {
		s, err := storageOf(Config{Store: store, MongoDBURI: uri})
		if err != nil {
			t.Error(err)
		}
		return s.folder
	}
	folders := map[string]bool{}
	for _, f := range []string{folder(SQLite, ""), folder(MongoDB, ""), folder(MongoDB, "mongodb://u:p@a/x"), folder(MongoDB, "mongodb://a/y")} {
		folders[f] = true
	}
	if len(folders) != 4 || folder(MongoDB, "mongodb://u:new@a/x") != folder(MongoDB, "mongodb://u:p@a/x") {
		t.Errorf("each store needs a folder of its own, whatever the password: %v", folders)
	}
	if _, err := storageOf(Config{Store: MongoDB, MongoDBURI: "mongodb://u:%zz@h"}); err == nil || strings.Contains(err.Error(), "zz") {
		t.Errorf("a password that cannot be read: %v", err)
	}
}

// TestRegistrySettings: a stand-in is no replica set, and a password is in a file.
func TestRegistrySettings(t *testing.T) {
	t.Parallel()
	s := &System{config: Config{Dir: "/d"}, store: storage{uri: "mongodb://h/db", username: "u", password: "p"}}
	if got := s.registrySettings("/d/f"); got["store"] != "mongodb://h/db" || got["store_username"] != "u" ||
		got["store_password_file"] != "/d/run/mongodb-password" || got["store_allow_standalone"] != nil {
		t.Errorf("a server: %v", got)
	}
	s.store = storage{uri: "mongodb://h/db", standin: true}
	if got := s.registrySettings("/d/f"); got["store_allow_standalone"] != true || got["store_username"] != nil {
		t.Errorf("a stand-in: %v", got)
	}
	s.store = storage{}
	if got := s.registrySettings("/d/f"); got["store"] != "sqlite:/d/f/store" || got["store_allow_standalone"] != nil {
		t.Errorf("SQLite: %v", got)
	}
}

func TestPublicURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080",
		"0.0.0.0:8080":   "http://localhost:8080",
		":8080":          "http://localhost:8080",
		"[::1]:80":       "http://[::1]:80",
		"127.0.0.1:0":    "",
		"nonsense":       "",
	} {
		if got := publicURL(address); got != want {
			t.Errorf("%s is reached at %q, want %q", address, got, want)
		}
	}
}
