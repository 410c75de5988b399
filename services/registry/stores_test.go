package registry

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
)

func TestStoreSettings(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"MongoDB":                     {[]string{"--store", "mongodb://a:27017,b:27017/jobs?replicaSet=rs"}, ""},
		"credentials":                 {[]string{"--store", "mongodb+srv://a/jobs", "--store-username", "ann", "--store-password-file", "f"}, ""},
		"a password in the open":      {[]string{"--store", "mongodb://ann:s3cret@a/jobs"}, "store: it carries a password"},
		"no server":                   {[]string{"--store", "mongodb://"}, "store: it names no server"},
		"no store at all":             {[]string{"--store", ""}, "store: must be"},
		"half a certificate":          {[]string{"--store", "mongodb://a", "--store-tls-cert-file", "c"}, "store_tls_cert_file"},
		"the other half":              {[]string{"--store", "mongodb://a", "--store-tls-key-file", "k"}, "store_tls_cert_file"},
		"a user of SQLite":            {[]string{"--store-username", "ann"}, "store_username: is for MongoDB only"},
		"certificates of SQLite":      {[]string{"--store-tls-ca-file", "c"}, "store_tls_ca_file: is for MongoDB only"},
		"a password file of SQLite":   {[]string{"--store-password-file", "f"}, "store_password_file: is for MongoDB only"},
		"two things at the same time": {[]string{"--store", "mongodb:///x", "--store-tls-key-file", "k"}, "store: it names no server: write mongodb://HOST:27017/almanac\nstore_tls_cert_file"},
	} {
		cfg, err := load(c.args, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = cfg.validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
}

func TestOpenStoreRefuses(t *testing.T) {
	empty := write(t, "password", "\n")
	uri := standintest.Start(t).URI
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no password file":    {Config{Store: uri, StorePasswordFile: empty + ".not"}, "store_password_file"},
		"an empty password":   {Config{Store: uri, StorePasswordFile: empty}, "is empty"},
		"not a replica set":   {Config{Store: uri}, "store_allow_standalone"},
		"no such certificate": {Config{Store: uri, StoreTLSCAFile: empty + ".not"}, "store: "},
		"no URI":              {Config{Store: "mongodb://"}, "store: "},
	} {
		s, err := openStore(t.Context(), c.cfg, zap.NewNop())
		if err == nil {
			s.Close()
			t.Errorf("%s: it opened", name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestServeFromMongoDB has two registries on one database.
func TestServeFromMongoDB(t *testing.T) {
	at := standintest.Start(t).URI
	base := []string{"--store", at, "--store-allow-standalone", "--log-level", "error"}
	if _, err := run(t, t.Context(), "a long enough password\n", append([]string{"user", "add", "--role", "super_admin", "root"}, base...)...); err != nil {
		t.Fatal(err)
	}
	token, err := run(t, t.Context(), "", append([]string{"token", "create", "--user", "root"}, base...)...)
	if err != nil || strings.TrimSpace(token) == "" {
		t.Fatalf("%q %v", token, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 2)
	for range 2 {
		cfg, err := load(append([]string{"--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"}, base...), nil)
		if err != nil {
			t.Fatal(err)
		}
		ready := make(chan Addresses, 1)
		cfg.Ready = func(a Addresses) { ready <- a }
		go func() { ended <- Run(ctx, cfg) }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatal(err)
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
