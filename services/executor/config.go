package executor

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	"github.com/almanac-scheduler/almanac/pkg/template"
)

// Config says how an executor works. The names of its fields in a configuration
// file are those of the flags, with underscores.
type Config struct {
	// Registries are host:port addresses. A host with several addresses is as
	// many registries; the executor connects to all of them.
	Registries []string `yaml:"registries"`
	// TokenFile holds the executors' credential.
	TokenFile string `yaml:"token_file"`
	// Plaintext switches TLS off. CAFile and ServerName are for TLS only.
	Plaintext  bool   `yaml:"plaintext"`
	CAFile     string `yaml:"ca_file"`
	ServerName string `yaml:"server_name"`

	// Name is what people see as the host of a run.
	Name  string `yaml:"name"`
	Slots int    `yaml:"slots"`
	// Labels are what jobs select executors by.
	Labels map[string]string `yaml:"labels"`

	// Connections are the named destinations that templates may use.
	Connections map[string]Connection `yaml:"connections"`
	// Allow lists, by template and parameter, the values permitted here.
	Allow map[string]map[string][]string `yaml:"allow"`
	// Templates are the settings of templates, by type. {file: path} anywhere
	// within stands for the content of that file.
	Templates map[string]map[string]any `yaml:"templates"`

	// Runner is the program that holds the templates.
	Runner string `yaml:"runner"`
	// InProcess names shipped templates that run inside the executor itself.
	InProcess []string `yaml:"in_process"`
	// BenchNoop adds a template that does nothing, for measuring.
	// BenchNoopMaxConcurrency is its limit of runs at once in the whole fleet, 0
	// for none.
	BenchNoop               bool `yaml:"bench_noop"`
	BenchNoopMaxConcurrency int  `yaml:"bench_noop_max_concurrency"`

	// MemoryMB (MiB) and CPUSeconds bound each run, LogLines and LogKB (KiB)
	// what it may log. 0 switches the first two off.
	MemoryMB   int `yaml:"memory_mb"`
	CPUSeconds int `yaml:"cpu_seconds"`
	LogLines   int `yaml:"log_lines"`
	LogKB      int `yaml:"log_kb"`

	// Grace is how long running work may go on once the executor drains,
	// KillGrace how long a run that was asked to stop may take.
	Grace     time.Duration `yaml:"grace"`
	KillGrace time.Duration `yaml:"kill_grace"`
	// ChildIdle is how long a child process is kept warm, ChildRuns how many
	// runs it may serve.
	ChildIdle time.Duration `yaml:"child_idle"`
	ChildRuns int           `yaml:"child_runs"`

	// HealthAddr serves /healthz and /readyz; "" does not.
	HealthAddr string `yaml:"health_addr"`
	LogFormat  string `yaml:"log_format"`
	LogLevel   string `yaml:"log_level"`

	// Drain, when it is closed, makes Run finish what runs and return.
	Drain <-chan struct{} `yaml:"-"`
}

// Defaults returns the configuration before anything is set.
func Defaults() Config {
	config := Config{
		Slots: 8, MemoryMB: 512, CPUSeconds: 300, LogLines: 10_000, LogKB: 1024,
		Grace: 30 * time.Second, KillGrace: 5 * time.Second, ChildIdle: time.Minute, ChildRuns: 100,
		LogFormat: "json", LogLevel: "info",
	}
	if host, err := os.Hostname(); err == nil {
		config.Name = host
	}
	if self, err := os.Executable(); err == nil {
		config.Runner = filepath.Join(filepath.Dir(self), "runner")
	}
	return config
}

// setting is one thing that a flag, a variable or a line of a file can set.
type setting struct {
	name, usage string
	isSwitch    bool
	isList      bool // may be written several times
	set         func(*Config, string) error
}

const (
	envPrefix  = "ALMANAC_EXECUTOR_"
	configFlag = "config"
)

// env is the name of the environment variable for a flag.
func env(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

var settings = []setting{
	listSetting("registries", "registries to connect to, as host:port,host:port, or a name with an address for each (required)", func(c *Config) *[]string { return &c.Registries }),
	textSetting("token-file", "file with the executors' credential (required)", func(c *Config, s string) { c.TokenFile = s }),
	switchSetting("plaintext", "connect without TLS", func(c *Config) *bool { return &c.Plaintext }),
	textSetting("ca-file", "PEM file of the authorities to trust instead of the system's", func(c *Config, s string) { c.CAFile = s }),
	textSetting("server-name", "name to expect in a registry's certificate, if it is not the one that is connected to", func(c *Config, s string) { c.ServerName = s }),
	textSetting("name", "name for people (default: the host's)", func(c *Config, s string) { c.Name = s }),
	numberSetting("slots", "how many runs at a time (default 8)", func(c *Config) *int { return &c.Slots }),
	{name: "labels", isList: true, usage: "what jobs select executors by, as key=value,key=value; may be repeated", set: func(c *Config, s string) (err error) { c.Labels, err = pairs(s); return err }},
	textSetting("runner", "program that holds the templates (default: runner, beside this program)", func(c *Config, s string) { c.Runner = s }),
	listSetting("in-process", "shipped templates to run inside the executor: UNSAFE, without limits or isolation; "+
		"permitted for idempotent templates that neither destroy nor connect", func(c *Config) *[]string { return &c.InProcess }),
	switchSetting("bench-noop", "for measuring: offer a template noop that does nothing, inside the executor", func(c *Config) *bool { return &c.BenchNoop }),
	numberSetting("bench-noop-max-concurrency", "runs of noop at once in the whole fleet; 0 is unlimited (default 0)", func(c *Config) *int { return &c.BenchNoopMaxConcurrency }),
	numberSetting("memory-mb", "memory that each run may use, in MiB; 0 is unlimited (default 512)", func(c *Config) *int { return &c.MemoryMB }),
	numberSetting("cpu-seconds", "processor time that each run may use; 0 is unlimited (default 300)", func(c *Config) *int { return &c.CPUSeconds }),
	numberSetting("log-lines", "lines that one run may log (default 10000)", func(c *Config) *int { return &c.LogLines }),
	numberSetting("log-kb", "KiB that one run may log (default 1024)", func(c *Config) *int { return &c.LogKB }),
	durationSetting("grace", "how long running work may go on after SIGTERM (default 30s)", func(c *Config) *time.Duration { return &c.Grace }),
	durationSetting("kill-grace", "how long a run that was cancelled, or whose time is over, may take to end by itself (default 5s)", func(c *Config) *time.Duration { return &c.KillGrace }),
	durationSetting("child-idle", "how long a child process is kept for the next run (default 1m)", func(c *Config) *time.Duration { return &c.ChildIdle }),
	numberSetting("child-runs", "how many runs one child process may serve (default 100)", func(c *Config) *int { return &c.ChildRuns }),
	textSetting("health-addr", "address for /healthz and /readyz over HTTP, as host:port (default: none)", func(c *Config, s string) { c.HealthAddr = s }),
	textSetting("log-format", "json or console (default json)", func(c *Config, s string) { c.LogFormat = s }),
	textSetting("log-level", "debug, info, warn or error (default info)", func(c *Config, s string) { c.LogLevel = s }),
}

func textSetting(name, usage string, set func(*Config, string)) setting {
	return setting{name: name, usage: usage, set: func(c *Config, s string) error { set(c, s); return nil }}
}

func listSetting(name, usage string, field func(*Config) *[]string) setting {
	return setting{name: name, usage: usage, isList: true, set: func(c *Config, s string) error { *field(c) = list(s); return nil }}
}

func switchSetting(name, usage string, field func(*Config) *bool) setting {
	return setting{name: name, usage: usage, isSwitch: true, set: func(c *Config, s string) (err error) {
		if *field(c), err = strconv.ParseBool(s); err != nil {
			return errors.New("must be true or false")
		}
		return nil
	}}
}

func numberSetting(name, usage string, field func(*Config) *int) setting {
	return setting{name: name, usage: usage, set: func(c *Config, s string) (err error) {
		if *field(c), err = strconv.Atoi(s); err != nil {
			return errors.New("must be a whole number")
		}
		return nil
	}}
}

func durationSetting(name, usage string, field func(*Config) *time.Duration) setting {
	return setting{name: name, usage: usage, set: func(c *Config, s string) (err error) {
		if *field(c), err = time.ParseDuration(s); err != nil {
			return errors.New(`must be a duration such as "30s"`)
		}
		return nil
	}}
}

func list(s string) []string {
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func pairs(s string) (map[string]string, error) {
	labels := map[string]string{}
	for _, item := range list(s) {
		key, value, ok := strings.Cut(item, "=")
		if !ok {
			return nil, fmt.Errorf("%q must be key=value", item)
		}
		if other, twice := labels[key]; twice && other != value {
			return nil, fmt.Errorf("%s is given twice, as %q and %q", key, other, value)
		}
		labels[key] = value
	}
	return labels, nil
}

// load puts a configuration together: flags over the environment over the file
// over the defaults. The flags are those that were given.
func load(flags map[string]string, lookup func(string) (string, bool)) (Config, error) {
	config := Defaults()
	path, ok := flags[configFlag]
	if !ok {
		path, _ = lookup(env(configFlag))
	}
	if path != "" {
		if err := config.readFile(path); err != nil {
			return Config{}, err
		}
	}
	for _, s := range settings {
		if value, ok := lookup(env(s.name)); ok {
			if err := s.set(&config, value); err != nil {
				return Config{}, fmt.Errorf("%s: %w", env(s.name), err)
			}
		}
		if value, ok := flags[s.name]; ok {
			if err := s.set(&config, value); err != nil {
				return Config{}, fmt.Errorf("--%s: %w", s.name, err)
			}
		}
	}
	return config, config.validate()
}

// readFile reads YAML, of which JSON is a part.
func (c *Config) readFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--%s: %w", configFlag, err)
	}
	defer file.Close()
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	if err := decoder.Decode(c); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// validate names every field that cannot work.
func (c *Config) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	if len(c.Registries) == 0 {
		bad("registries", "is required: at least one address, host:port")
	}
	for _, address := range c.Registries {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			bad("registries", "%q must be host:port", address)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		if !labelForm.MatchString(key) {
			bad("labels", "the key %q %s", key, labelRule)
		}
		if !labelForm.MatchString(c.Labels[key]) {
			bad("labels", "the value %q of %s %s", c.Labels[key], key, labelRule)
		}
	}
	if c.TokenFile == "" {
		bad("token_file", "is required: the file that holds the executors' credential")
	} else if _, err := rpc.TokenFile(c.TokenFile)(); err != nil {
		bad("token_file", "%v", err)
	}
	if c.Plaintext && (c.CAFile != "" || c.ServerName != "") {
		bad("plaintext", "excludes ca_file and server_name: drop one of them")
	}
	if strings.TrimSpace(c.Name) == "" {
		bad("name", "must not be empty")
	}
	if c.Runner == "" {
		bad("runner", "must name the program that holds the templates")
	}
	for _, n := range []struct {
		field              string
		value, least, most int
	}{
		{"slots", c.Slots, 1, 100_000},
		{"log_lines", c.LogLines, 1, 1_000_000},
		{"log_kb", c.LogKB, 1, 64 << 10},
		{"child_runs", c.ChildRuns, 1, 1_000_000},
		{"bench_noop_max_concurrency", c.BenchNoopMaxConcurrency, 0, 1_000_000},
		{"cpu_seconds", c.CPUSeconds, 0, 7 * 24 * 3600},
	} {
		if n.value < n.least || n.value > n.most {
			bad(n.field, "must be between %d and %d, but is %d", n.least, n.most, n.value)
		}
	}
	if c.MemoryMB != 0 && (c.MemoryMB < leastMemoryMB || c.MemoryMB > 1<<20) {
		bad("memory_mb", "must be 0 for unlimited, or between %d and %d, but is %d", leastMemoryMB, 1<<20, c.MemoryMB)
	}
	for _, d := range []struct {
		field string
		value time.Duration
		least time.Duration
	}{
		{"grace", c.Grace, 0},
		{"kill_grace", c.KillGrace, 0},
		{"child_idle", c.ChildIdle, time.Second},
	} {
		if d.value < d.least || d.value > 24*time.Hour {
			bad(d.field, "must be between %s and 24h, but is %s", d.least, d.value)
		}
	}
	for name, connection := range c.Connections {
		field := "connections." + name
		if !connectionForm.MatchString(name) || !kindForm.MatchString(connection.Kind) {
			bad(field, `needs a name and a kind, such as main and "mongodb": letters, digits, _ . and - are permitted, in a kind only a-z, 0-9 and _`)
		}
		if (connection.URI == "") == (connection.URIFile == "") && (connection.URI != "" || connection.Kind != template.KindWebhook) {
			bad(field, "needs either uri_file or uri")
		}
	}
	if c.HealthAddr != "" {
		if _, _, err := net.SplitHostPort(c.HealthAddr); err != nil {
			bad("health_addr", "%q must be host:port", c.HealthAddr)
		}
	}
	// Of several complaints about connections the order would be random.
	slices.SortStableFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// Keys and values of labels.
var labelForm = regexp.MustCompile(`^[A-Za-z0-9._/-]{1,63}$`)

// Names and kinds of connections.
var (
	connectionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	kindForm       = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
)

const labelRule = "must have 1 to 63 letters, digits and . _ / -"

// leastMemoryMB is what a runner needs to begin with.
const leastMemoryMB = 64
