package registry

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
)

// Config says how a registry works. Its fields are set by flags, by environment
// variables and by a file; see Command.
type Config struct {
	HTTPAddr string // REST; port 0 picks one
	GRPCAddr string // gRPC, for clients and executors; port 0 picks one
	Store    string // sqlite:FOLDER, or the URI of a MongoDB without its password

	// What the servers of a MongoDB want to know and show.
	StoreUsername        string
	StorePasswordFile    string
	StoreTLSCAFile       string // PEM: whom to trust
	StoreTLSCertFile     string // PEM: the registry's own certificate
	StoreTLSKeyFile      string
	StoreAllowStandalone bool // permits a MongoDB that is not a replica set

	// ExecutorTokenFile holds the credential that all executors share. Without
	// it none is let in.
	ExecutorTokenFile string

	MaxJobs           int           // 0 for no limit
	ManualRunsPerHour int           // a user; 0 for no limit
	SessionTTL        time.Duration // an executor that is silent for so long is dead
	MissedAfter       time.Duration // a run that is later than this is missed

	TLSCertFile string // PEM, for both addresses
	TLSKeyFile  string
	Plaintext   bool // permits addresses beyond this machine without TLS

	PublicURL string // where people reach this registry, for links in notifications
	Name      string // of this registry, for people
	LogFormat string // json or console
	LogLevel  string // debug, info, warn or error
	ReadyFile string // gets the addresses, as JSON, once the registry works

	// Ready, when set, is called with the addresses once the registry works.
	Ready func(Addresses)
}

// Addresses are where a registry answers.
type Addresses struct {
	HTTP string `json:"http"`
	GRPC string `json:"grpc"`
}

const (
	envPrefix  = "ALMANAC_"
	configFlag = "config"
)

// bind adds the flags that set the configuration, with its defaults.
func (c *Config) bind(flags *pflag.FlagSet) {
	host, _ := os.Hostname() // only a name for people
	flags.StringVar(&c.HTTPAddr, "http-addr", "127.0.0.1:8080", "address for REST, as host:port; port 0 picks one")
	flags.StringVar(&c.GRPCAddr, "grpc-addr", "127.0.0.1:9090", "address for gRPC clients and executors, as host:port; port 0 picks one")
	flags.StringVar(&c.ExecutorTokenFile, "executor-token-file", "", "file with the credential that all executors share")
	flags.IntVar(&c.MaxJobs, "max-jobs", 100, "how many jobs there may be; 0 for any number")
	flags.IntVar(&c.ManualRunsPerHour, "manual-runs-per-hour", 10, "how many runs a user may start by hand in an hour; 0 for any number")
	flags.DurationVar(&c.SessionTTL, "session-ttl", 5*time.Second, "after which silence an executor counts as dead")
	flags.DurationVar(&c.MissedAfter, "missed-after", time.Minute, "how late a run may start before it counts as missed")
	flags.StringVar(&c.TLSCertFile, "tls-cert-file", "", "PEM file with the certificate for both addresses")
	flags.StringVar(&c.TLSKeyFile, "tls-key-file", "", "PEM file with the certificate's private key")
	flags.BoolVar(&c.Plaintext, "plaintext", false, "answer without TLS on addresses beyond this machine too")
	flags.StringVar(&c.PublicURL, "public-url", "", "where people reach the registry, as https://host, for links in notifications; none without it")
	flags.StringVar(&c.Name, "name", host, "name of this registry, for people")
	flags.StringVar(&c.ReadyFile, "ready-file", "", "file to write the addresses to, as JSON, once the registry works")
}

// bindStore adds the flags that every command needs.
func (c *Config) bindStore(flags *pflag.FlagSet) {
	flags.StringVar(&c.Store, "store", "sqlite:almanac-data", "where everything is kept: sqlite: and a folder, or mongodb://HOST:27017/DATABASE")
	flags.StringVar(&c.StoreUsername, "store-username", "", "user of the MongoDB")
	flags.StringVar(&c.StorePasswordFile, "store-password-file", "", "file with the user's password")
	flags.StringVar(&c.StoreTLSCAFile, "store-tls-ca-file", "", "PEM file with the certificates to trust in the MongoDB; switches TLS on")
	flags.StringVar(&c.StoreTLSCertFile, "store-tls-cert-file", "", "PEM file with the registry's certificate for the MongoDB; switches TLS on")
	flags.StringVar(&c.StoreTLSKeyFile, "store-tls-key-file", "", "PEM file with the private key of that certificate")
	flags.BoolVar(&c.StoreAllowStandalone, "store-allow-standalone", false, "accept a MongoDB that is not a replica set, for trying things out: when it is lost, so is what it acknowledged")
	flags.StringVar(&c.LogFormat, "log-format", "json", "json or console")
	flags.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	flags.String(configFlag, "", "file with settings (YAML or JSON), named like the flags with underscores")
}

// fill sets the flags that were not given from the environment, and what is not
// there either from the configuration file. all are the names that the file may
// hold: those of other commands too, so that one file serves all.
func fill(flags *pflag.FlagSet, all []string, lookup func(string) (string, bool)) error {
	path := flags.Lookup(configFlag).Value.String()
	if path == "" {
		path, _ = lookup(env(configFlag))
	}
	file, err := readFile(path, all)
	if err != nil {
		return err
	}
	var bad []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == configFlag || !slices.Contains(all, f.Name) {
			return
		}
		if value, ok := lookup(env(f.Name)); ok {
			if err := f.Value.Set(value); err != nil {
				bad = append(bad, fmt.Errorf("%s: %q cannot be used: %w", env(f.Name), value, err))
			}
		} else if value, ok := file[f.Name]; ok {
			if err := f.Value.Set(value); err != nil {
				bad = append(bad, fmt.Errorf("%s: %s: %q cannot be used: %w", path, underscored(f.Name), value, err))
			}
		}
	})
	return errors.Join(bad...)
}

// env is the environment variable for a flag.
func env(flag string) string { return envPrefix + strings.ToUpper(underscored(flag)) }

func underscored(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// readFile reads settings by the names of their flags. JSON is a part of YAML.
func readFile(path string, all []string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", configFlag, err)
	}
	var settings map[string]yaml.Node
	if err := yaml.Unmarshal(content, &settings); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := map[string]string{}
	var bad []error
	for name, value := range settings {
		flag := strings.ReplaceAll(name, "_", "-")
		switch {
		case !slices.Contains(all, flag) || name != underscored(flag):
			bad = append(bad, fmt.Errorf("%s: %s: there is no such setting", path, name))
		case value.Kind != yaml.ScalarNode:
			bad = append(bad, fmt.Errorf("%s: %s: must be a single value", path, name))
		default:
			out[flag] = value.Value
		}
	}
	slices.SortFunc(bad, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return out, errors.Join(bad...)
}

// validate names every setting that cannot work, and what to do about it.
func (c *Config) validate() error {
	var bad []error
	wrong := func(field, format string, args ...any) {
		bad = append(bad, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	for _, a := range []struct{ field, address string }{{"http_addr", c.HTTPAddr}, {"grpc_addr", c.GRPCAddr}} {
		host, _, err := net.SplitHostPort(a.address)
		switch {
		case err != nil:
			wrong(a.field, "%q must be host:port", a.address)
		case c.TLSCertFile == "" && !c.Plaintext && !loopback(host):
			wrong(a.field, "%s can be reached from other machines: give tls_cert_file and tls_key_file, or say plaintext if something in front provides TLS", a.address)
		}
	}
	bad = append(bad, c.validateStore(), c.strayStoreSettings())
	if c.MaxJobs < 0 {
		wrong("max_jobs", "must be 0 for no limit, or more, not %d", c.MaxJobs)
	}
	if c.ManualRunsPerHour < 0 {
		wrong("manual_runs_per_hour", "must be 0 for no limit, or more, not %d", c.ManualRunsPerHour)
	}
	if c.SessionTTL < time.Second || c.SessionTTL > 10*time.Minute {
		wrong("session_ttl", "must be from 1s to 10m, not %s", c.SessionTTL)
	}
	if c.MissedAfter < time.Second || c.MissedAfter > 24*time.Hour {
		wrong("missed_after", "must be from 1s to 24h, not %s", c.MissedAfter)
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		wrong("tls_cert_file", "needs tls_key_file beside it, and the other way round")
	}
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		wrong("public_url", "%q must be an address such as https://almanac.example.com", c.PublicURL)
	}
	return errors.Join(bad...)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (c *Config) tls() rpc.TLS {
	return rpc.TLS{Plaintext: c.TLSCertFile == "", CertFile: c.TLSCertFile, KeyFile: c.TLSKeyFile}
}

// executorToken reads the executors' credential; "" when there is none.
func (c *Config) executorToken() (string, error) {
	if c.ExecutorTokenFile == "" {
		return "", nil
	}
	token, err := rpc.TokenFile(c.ExecutorTokenFile)()
	if err != nil {
		return "", fmt.Errorf("executor_token_file: %w", err)
	}
	if len(token) < 20 {
		return "", fmt.Errorf("executor_token_file: the token in %s has %d characters: use at least 20 random ones", c.ExecutorTokenFile, len(token))
	}
	return token, nil
}
