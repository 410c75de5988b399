package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/mongostore"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
)

// This file is the only place that knows which stores there are.

const sqlitePrefix = "sqlite:"

// openStore opens the store of the configuration. The caller closes it.
func openStore(ctx context.Context, cfg Config, log *zap.Logger) (store.Store, error) {
	if err := cfg.validateStore(); err != nil {
		return nil, err
	}
	if folder, ok := strings.CutPrefix(cfg.Store, sqlitePrefix); ok {
		s, err := sqlitestore.Open(ctx, folder, sqlitestore.Options{Log: log.Named("store")})
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		return s, nil
	}
	password, err := cfg.storePassword()
	if err != nil {
		return nil, err
	}
	s, err := mongostore.Open(ctx, mongostore.Options{
		URI: cfg.Store, Username: cfg.StoreUsername, Password: password,
		CAFile: cfg.StoreTLSCAFile, CertFile: cfg.StoreTLSCertFile, KeyFile: cfg.StoreTLSKeyFile,
		AllowStandalone: cfg.StoreAllowStandalone, Log: log.Named("store"),
	})
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}

// storeIsThere returns an error when the folder of the configuration holds no
// store: opening it would make one. Of a MongoDB it knows nothing.
func (c *Config) storeIsThere() error {
	folder, ok := strings.CutPrefix(c.Store, sqlitePrefix)
	if !ok || folder == "" {
		return nil
	}
	there, err := sqlitestore.Exists(folder)
	if err == nil && !there {
		err = fmt.Errorf("there is no store in the folder %s", folder)
	}
	return err
}

// validateStore names every setting of the store that cannot work. It repeats no
// URI, which may hold a secret.
func (c *Config) validateStore() error {
	if folder, ok := strings.CutPrefix(c.Store, sqlitePrefix); ok {
		if folder == "" {
			return errors.New("store: it names no folder: say for example sqlite:/var/lib/almanac")
		}
		return nil
	}
	if !strings.HasPrefix(c.Store, "mongodb") {
		return errors.New("store: must be sqlite:FOLDER, for example sqlite:/var/lib/almanac, or mongodb://HOST:27017/DATABASE")
	}
	var bad []error
	if _, _, err := mongostore.ParseURI(c.Store); err != nil {
		bad = append(bad, fmt.Errorf("store: %w", err))
	}
	if (c.StoreTLSCertFile == "") != (c.StoreTLSKeyFile == "") {
		bad = append(bad, errors.New("store_tls_cert_file: needs store_tls_key_file beside it, and the other way round"))
	}
	return errors.Join(bad...)
}

// strayStoreSettings names the settings that have no meaning for the store.
func (c *Config) strayStoreSettings() error {
	var bad []error
	if !strings.HasPrefix(c.Store, sqlitePrefix) {
		return nil
	}
	for _, s := range []struct{ name, value string }{
		{"store_username", c.StoreUsername},
		{"store_password_file", c.StorePasswordFile},
		{"store_tls_ca_file", c.StoreTLSCAFile},
		{"store_tls_cert_file", c.StoreTLSCertFile},
		{"store_tls_key_file", c.StoreTLSKeyFile},
	} {
		if s.value != "" {
			bad = append(bad, fmt.Errorf("%s: is for MongoDB only: leave it out, or say mongodb://HOST:27017/DATABASE as the store", s.name))
		}
	}
	return errors.Join(bad...)
}

// storePassword reads the password of the MongoDB's user; "" when there is none.
func (c *Config) storePassword() (string, error) {
	if c.StorePasswordFile == "" {
		return "", nil
	}
	content, err := os.ReadFile(c.StorePasswordFile)
	if err != nil {
		return "", fmt.Errorf("store_password_file: %w", err)
	}
	password := strings.TrimRight(string(content), "\r\n")
	if password == "" {
		return "", fmt.Errorf("store_password_file: %s is empty: write the password into it", c.StorePasswordFile)
	}
	return password, nil
}
