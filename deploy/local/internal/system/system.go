// Package system starts a whole Almanac on one machine as real processes:
// registries, executors, and stand-ins for MongoDB servers. The one-command local
// run, the whole-system tests and the benchmarks share it.
package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/supervise"
)

// Names of processes. Registry is the first of registry-1 and so on; executors are
// called likewise. Standin has the sample data, Keeper is the stand-in in which
// the registries keep theirs. They are two, so that a slow query of a job delays
// no registry. Mail is the mail sink, Webhooks the receiver of webhooks.
const (
	Registry = "registry-1"
	Standin  = "standin"
	Keeper   = "store"
	Mail     = "mail"
	Webhooks = "webhooks"
)

// Names of further connections of the executors: the folder that is a bucket, and
// the registry's history.
const (
	Bucket  = "bucket"
	History = "history"
)

// Stores that registries may keep their data in.
const (
	SQLite  = "sqlite"
	MongoDB = "mongodb"
)

// Database is where the stand-in keeps the sample data.
const Database = "app"

// ErrInUse means that another process runs a system in the same data folder.
var ErrInUse = errors.New("another local system uses this data folder")

// How long the parts may take.
const (
	readyWithin   = 60 * time.Second
	pollEvery     = 20 * time.Millisecond
	executorGrace = 3 * time.Second // for runs
	// After the beginning of the end, which is over within 10 s.
	executorsEnd  = 4 * time.Second
	registriesEnd = 7500 * time.Millisecond
	standinsEnd   = 9500 * time.Millisecond
)

// Config says what to start. Zero values are fine where nothing is said.
type Config struct {
	// Bin is the folder with the binaries (required).
	Bin string
	// Dir is the data folder (required), made when missing.
	Dir string
	// HTTPAddr and GRPCAddr are the first registry's addresses; 127.0.0.1:0, which
	// picks free ports, when empty. The other registries always have free ports.
	HTTPAddr, GRPCAddr string
	// Store is SQLite (also when empty) or MongoDB. The data of the two are kept
	// apart.
	Store string
	// MongoDBURI names the server, and database, for the store MongoDB; a stand-in
	// is started when it is empty.
	MongoDBURI string
	// Replicas is how many registries are started, one when 0; SQLite serves one.
	Replicas int
	// Executors is how many executors are started, each connected to all registries.
	Executors int
	// Standin adds the MongoDB stand-in with sample data; without it the
	// executors offer no template that needs a database.
	Standin bool
	// Mail adds the mail sink, as the executors' connection of that name; without
	// it they send no mail.
	Mail bool
	// Webhooks adds the receiver of webhooks, as the executors' connection of that
	// name, and lets them send webhooks to this machine.
	Webhooks bool
	// Bucket adds a folder that is a bucket, as the executors' connection of that
	// name, and the registry's history for reports, as History.
	Bucket bool
	// Registry and Executor are more settings for their configuration files, Each
	// for that of the one process with this name.
	Registry, Executor map[string]any
	Each               map[string]map[string]any
	// Event hears of every start and end of a process, from several goroutines.
	Event func(supervise.Event)
	// ExecutorsLater leaves the executors to StartExecutors.
	ExecutorsLater bool
}

// User is somebody who may use the API.
type User struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Token    string `json:"token"`
}

// Users has one user of each role.
type Users struct {
	SuperAdmin User `json:"super_admin"`
	Admin      User `json:"admin"`
	User       User `json:"user"`
}

// Endpoint is where a registry answers.
type Endpoint struct {
	// Name is the process's.
	Name string `json:"name"`
	// HTTP is the base of the REST API, such as http://127.0.0.1:8080; GRPC is
	// host:port.
	HTTP string `json:"http"`
	GRPC string `json:"grpc"`
}

// System is a running system. Its exported fields do not change after Start.
type System struct {
	// Endpoint is the first registry.
	Endpoint
	// Registries are all of them.
	Registries []Endpoint
	// MongoDB is the URI of the stand-in with sample data, or empty.
	MongoDB string
	// MailDir is the folder with the mail that was sent, or empty.
	MailDir string
	// WebhookDir is the folder with the webhooks that were received, or empty.
	WebhookDir string
	// BucketDir is the folder that is a bucket, or empty.
	BucketDir string
	// Users may use the API.
	Users Users
	// First says that the registry's data were made by this start.
	First bool

	config Config
	store  storage   // complete once the servers have started
	health []*health // of the executors

	mu        sync.Mutex
	processes []*supervise.Process // in the order of their start
	// What processes listen on at their next start, by what for.
	addresses map[string]string
}

// health keeps the address of an executor's probes: a free one for each start.
type health struct {
	mu      sync.Mutex
	address string
}

// Start starts the system and returns when the registry is ready and every
// executor has been welcomed by it. Only one may use a data folder at a time (see
// Lock). Nothing is left when it fails; the error says what is wrong and, where it
// can be known, how to put it right.
func Start(ctx context.Context, config Config) (_ *System, err error) {
	if config.HTTPAddr == "" {
		config.HTTPAddr = "127.0.0.1:0"
	}
	if config.GRPCAddr == "" {
		config.GRPCAddr = "127.0.0.1:0"
	}
	if config.Store == "" {
		config.Store = SQLite
	}
	if config.Replicas == 0 {
		config.Replicas = 1
	}
	if err := config.check(); err != nil {
		return nil, err
	}
	if config.Event == nil {
		config.Event = func(supervise.Event) {}
	}
	if config.Dir, err = filepath.Abs(config.Dir); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	s := &System{config: config, addresses: map[string]string{
		httpOf(Registry): config.HTTPAddr, grpcOf(Registry): config.GRPCAddr,
	}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	for _, folder := range []string{config.Dir, s.path("run"), s.path("logs")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
	}
	if err := s.free(ctx); err != nil {
		return nil, err
	}
	if s.store, err = storageOf(config); err != nil {
		return nil, err
	}
	if err := s.startServers(ctx); err != nil {
		return nil, err
	}
	if config.ExecutorsLater {
		return s, nil
	}
	return s, s.StartExecutors(ctx)
}

// check refuses what cannot work, with the remedy.
func (c *Config) check() error {
	switch {
	case c.Store != SQLite && c.Store != MongoDB:
		return fmt.Errorf("the store is %q: choose %s or %s (--store or ALMANAC_STORE)", c.Store, SQLite, MongoDB)
	case c.Replicas < 1:
		return fmt.Errorf("%d registries cannot serve anybody: ask for at least 1 (--replicas or ALMANAC_REPLICAS)", c.Replicas)
	case c.Replicas > 1 && c.Store == SQLite:
		return fmt.Errorf("%d registries cannot share SQLite, whose files only one process may keep open: "+
			"ask for 1 (--replicas or ALMANAC_REPLICAS), or for the store mongodb (--store or ALMANAC_STORE)", c.Replicas)
	}
	return nil
}

func (s *System) path(parts ...string) string {
	return filepath.Join(append([]string{s.config.Dir}, parts...)...)
}

// Lock holds a data folder, which is made when missing, until unlock is called or
// the process ends. Errors: ErrInUse, with the remedy.
func Lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (%s): stop it, or choose another folder with ALMANAC_DATA_DIR", ErrInUse, dir)
		}
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	return func() { file.Close() }, nil
}

// free checks that the first registry's addresses can be had, to say clearly
// which one cannot.
func (s *System) free(ctx context.Context) error {
	for _, one := range []struct{ address, variable string }{{s.config.HTTPAddr, "ALMANAC_HTTP_ADDR"}, {s.config.GRPCAddr, "ALMANAC_GRPC_ADDR"}} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", one.address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s is taken by another program: end it, or choose another address, such as %s=127.0.0.1:0 (port 0 picks a free one)", one.address, one.variable)
		}
		if err != nil {
			return fmt.Errorf("%s=%s: %w", one.variable, one.address, err)
		}
		listener.Close()
	}
	return nil
}

// startServers starts what executors need.
func (s *System) startServers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	var standin *supervise.Process
	var err error
	if s.config.Standin {
		if standin, err = s.startStandin(Standin, s.path("standin"), "--seed", Database); err != nil {
			return err
		}
	}
	if s.config.Mail {
		if err := s.startMail(ctx); err != nil {
			return err
		}
	}
	if s.config.Webhooks {
		if err := s.startWebhooks(ctx); err != nil {
			return err
		}
	}
	if s.config.Bucket {
		if err := s.makeBucket(); err != nil {
			return err
		}
	}
	if err := s.startKeeper(ctx); err != nil {
		return err
	}
	secrets, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	s.Users = secrets.Users
	if s.config.Bucket {
		if err := s.prepareReports(ctx, s.Users); err != nil {
			return err
		}
	}
	registries := make([]*supervise.Process, s.config.Replicas)
	for i := range registries {
		if registries[i], err = s.startRegistry("registry-" + strconv.Itoa(i+1)); err != nil {
			return err
		}
	}
	if standin != nil {
		if s.MongoDB, err = s.standinUp(ctx, standin); err != nil {
			return err
		}
	}
	for _, registry := range registries {
		if err := s.registryUp(ctx, registry); err != nil {
			return err
		}
	}
	s.Endpoint = s.Registries[0]
	return nil
}

// startStandin starts a stand-in for a MongoDB server; see standinUp. It decodes
// documents all day: some memory saves it a fifth of its work.
func (s *System) startStandin(name, data string, more ...string) (*supervise.Process, error) {
	return s.start(name, "standin", func() []string {
		return append([]string{"--listen", s.current(mongoOf(name)), "--data", data, "--ready-file", s.path("run", name+".ready")}, more...)
	}, "GOGC=400")
}

// standinUp waits until the stand-in serves, and returns its URI.
func (s *System) standinUp(ctx context.Context, standin *supervise.Process) (uri string, err error) {
	if err := s.wait(ctx, standin, func() (err error) {
		uri, err = standinReady(s.path("run", standin.Name()+".ready"))
		return err
	}); err != nil {
		return "", err
	}
	// A restarted one keeps its port.
	s.pin(mongoOf(standin.Name()), strings.TrimSuffix(strings.TrimPrefix(uri, "mongodb://"), "/"))
	standin.Release()
	return uri, nil
}

// startMail starts the mail sink, and waits until it serves.
func (s *System) startMail(ctx context.Context) error {
	s.MailDir = s.path("mail")
	return s.startSink(ctx, Mail, smtpOf(Mail), "mail-sink", "--dir", s.MailDir)
}

// startSink starts one of almanac-local's own servers, and waits until it listens
// on what the address is for.
func (s *System) startSink(ctx context.Context, name, address string, args ...string) error {
	ready := s.path("run", name+".ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	sink, err := s.start(name, "almanac-local", func() []string {
		return append(slices.Clone(args), "--listen", s.current(address), "--ready-file", ready)
	})
	if err != nil {
		return err
	}
	if err := s.wait(ctx, sink, func() error {
		listens, err := os.ReadFile(ready)
		if err == nil {
			s.pin(address, string(listens)) // a restarted one keeps its port
		}
		return err
	}); err != nil {
		return err
	}
	sink.Release()
	return nil
}

// startRegistry starts a registry on the store; see registryUp.
func (s *System) startRegistry(name string) (*supervise.Process, error) {
	settings := s.registrySettings(s.Folder())
	if err := os.Remove(s.readyFile(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	settings["ready_file"], settings["name"] = s.readyFile(name), name
	if url := publicURL(s.config.HTTPAddr); url != "" {
		settings["public_url"] = url
	}
	maps.Copy(settings, s.config.Registry)
	maps.Copy(settings, s.config.Each[name])
	file := s.path("run", name+".json")
	if err := writeJSON(file, settings); err != nil {
		return nil, err
	}
	return s.start(name, "registry", func() []string {
		return []string{"serve", "--config", file, "--http-addr", s.current(httpOf(name)), "--grpc-addr", s.current(grpcOf(name))}
	})
}

// publicURL is where people on this machine reach the first registry, for links
// in notifications; nothing where the port is picked at its start.
func publicURL(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" || port == "0" {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

func (s *System) readyFile(registry string) string { return s.path("run", registry+".ready") }

// registryUp waits until the registry is ready, and notes where it answers.
func (s *System) registryUp(ctx context.Context, registry *supervise.Process) error {
	at := Endpoint{Name: registry.Name()}
	if err := s.wait(ctx, registry, func() error {
		var addresses struct{ HTTP, GRPC string }
		content, err := os.ReadFile(s.readyFile(at.Name))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(content, &addresses); err != nil {
			return err
		}
		if at.HTTP, at.GRPC = "http://"+addresses.HTTP, addresses.GRPC; addresses.HTTP == "" {
			return errors.New("its ready file names no address")
		}
		return (&rest.Client{Base: at.HTTP}).Ready(ctx)
	}); err != nil {
		return err
	}
	// A restarted registry keeps its ports.
	s.pin(httpOf(at.Name), strings.TrimPrefix(at.HTTP, "http://"))
	s.pin(grpcOf(at.Name), at.GRPC)
	s.Registries = append(s.Registries, at)
	registry.Release()
	return nil
}

func standinReady(path string) (uri string, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	uri, complete := strings.CutSuffix(string(content), "\n")
	if !complete {
		return "", errors.New("its ready file is being written")
	}
	return uri, nil
}

// StartExecutors starts the executors and returns when each is welcome at a
// registry. To be called once, and only after a Start with ExecutorsLater.
func (s *System) StartExecutors(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	executors := make([]*supervise.Process, s.config.Executors)
	for i := range executors {
		var err error
		if executors[i], err = s.startExecutor(ctx, i+1); err != nil {
			return err
		}
	}
	for i, executor := range executors {
		if err := s.wait(ctx, executor, func() error { return s.health[i].ready(ctx) }); err != nil {
			return err
		}
		executor.Release()
	}
	return nil
}

func (s *System) startExecutor(ctx context.Context, number int) (*supervise.Process, error) {
	name := "executor-" + strconv.Itoa(number)
	var registries []string
	for _, registry := range s.Registries {
		registries = append(registries, registry.GRPC)
	}
	settings := map[string]any{
		"registries": registries,
		"plaintext":  true,
		"token_file": filepath.Join(s.Folder(), tokenFile),
		"name":       name,
		"runner":     filepath.Join(s.config.Bin, "runner"),
		"grace":      executorGrace.String(),
	}
	connections := map[string]any{}
	settings["connections"] = connections
	if s.config.Mail {
		connections[Mail] = map[string]any{
			"kind": "smtp", "uri": "smtp://" + s.current(smtpOf(Mail)) + "?tls=none", "from": "Almanac <almanac@localhost>",
		}
	}
	if s.config.Webhooks {
		connections[Webhooks] = s.webhookConnection()
		settings["templates"] = webhookSettings()
	}
	if s.config.Bucket {
		connections[Bucket], connections[History] = s.bucketConnection(), s.historyConnection()
	}
	if s.config.Standin {
		uri := s.path("run", "mongodb_uri")
		if err := os.WriteFile(uri, []byte(s.MongoDB+"\n"), 0o600); err != nil {
			return nil, err
		}
		connections[Database] = map[string]any{"kind": "mongodb", "uri_file": uri, "database": Database}
		settings["allow"] = allowed()
	}
	maps.Copy(settings, s.config.Executor)
	maps.Copy(settings, s.config.Each[name])
	file := s.path("run", name+".json")
	if err := writeJSON(file, settings); err != nil {
		return nil, err
	}
	probes := new(health)
	s.health = append(s.health, probes)
	return s.start(name, "executor", func() []string {
		return []string{"--config", file, "--health-addr", probes.next(ctx)}
	})
}

// next picks a free address. Should somebody else take it first, the executor
// ends, and is started again with another.
func (h *health) next(ctx context.Context) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	listener, err := new(net.ListenConfig).Listen(context.WithoutCancel(ctx), "tcp", "127.0.0.1:0")
	if err == nil {
		h.address = listener.Addr().String()
		listener.Close()
	}
	return h.address
}

func (h *health) ready(ctx context.Context) error {
	h.mu.Lock()
	address := h.address
	h.mu.Unlock()
	return (&rest.Client{Base: "http://" + address}).Ready(ctx)
}

// start starts a process that stays down if it dies before its Release: what
// cannot start is a failure, not something to try again.
func (s *System) start(name, binary string, args func() []string, env ...string) (*supervise.Process, error) {
	p, err := supervise.Start(supervise.Command{
		Name: name,
		Path: filepath.Join(s.config.Bin, binary),
		Args: args,
		Env:  append(environment(), env...),
		Log:  s.LogFile(name),
	}, s.config.Event)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (build it with: make build)", err)
	}
	if err != nil {
		return nil, err
	}
	p.Hold()
	s.mu.Lock()
	s.processes = append(s.processes, p)
	s.mu.Unlock()
	return p, nil
}

// environment is ours without Almanac's own settings: what they mean for the
// local system was said on the command line or in a file.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "ALMANAC_") })
}

// LogFile returns the file with the output of a process.
func (s *System) LogFile(name string) string { return s.path("logs", name+".log") }

// wait polls until the condition returns nil, and fails when the process dies or
// ctx ends.
func (s *System) wait(ctx context.Context, p *supervise.Process, condition func() error) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		why := condition()
		if why == nil {
			return nil
		}
		if running, err := p.Running(); !running {
			return fmt.Errorf("%s could not start (%w): %s", p.Name(), orEnded(err), LastWords(s.LogFile(p.Name())))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w)", p.Name(), why, ctx.Err())
		}
	}
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("it ended")
	}
	return err
}

// LastWords returns the last line of a log.
func LastWords(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	const most = 4096
	info, err := file.Stat()
	if err != nil {
		return err.Error()
	}
	tail := make([]byte, min(most, info.Size()))
	if _, err := file.ReadAt(tail, info.Size()-int64(len(tail))); err != nil {
		return err.Error()
	}
	text := strings.TrimSpace(string(tail))
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// What an address of a process is for.
func httpOf(process string) string  { return process + " HTTP" }
func grpcOf(process string) string  { return process + " gRPC" }
func smtpOf(process string) string  { return process + " SMTP" }
func mongoOf(process string) string { return process + " MongoDB" }

// current is what to listen on: any free port until one was pinned.
func (s *System) current(what string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if address := s.addresses[what]; address != "" {
		return address
	}
	return "127.0.0.1:0"
}

func (s *System) pin(what, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addresses[what] = address
}

// Process returns the process of that name, or nil.
func (s *System) Process(name string) *supervise.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		if p.Name() == name {
			return p
		}
	}
	return nil
}

// PIDs returns the processes' ids by name. One that is down for a moment keeps
// its last id.
func (s *System) PIDs() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make(map[string]int, len(s.processes))
	for _, p := range s.processes {
		ids[p.Name()] = p.PID()
	}
	return ids
}

// Ready returns nil when all registries and executors say that they work.
func (s *System) Ready(ctx context.Context) error {
	for _, registry := range s.Registries {
		if err := (&rest.Client{Base: registry.HTTP}).Ready(ctx); err != nil {
			return fmt.Errorf("%s: %w", registry.Name, err)
		}
	}
	for i, executor := range s.health {
		if err := executor.ready(ctx); err != nil {
			return fmt.Errorf("executor-%d: %w", i+1, err)
		}
	}
	return nil
}

// Client returns a REST client of the registry that acts as the user.
func (e Endpoint) Client(user User) *rest.Client {
	return &rest.Client{Base: e.HTTP, Token: user.Token}
}

// Stop ends all processes within 10 s: executors first, so that what they run
// can end and be reported, then the registries and the stand-ins. The error names
// those that had to be killed. No process is left, whatever it returns. It may
// be called again.
func (s *System) Stop() error {
	s.mu.Lock()
	processes := s.processes
	s.processes = nil
	s.mu.Unlock()
	begun := time.Now()
	are := func(kind string) func(*supervise.Process) bool {
		return func(p *supervise.Process) bool { return strings.HasPrefix(p.Name(), kind) }
	}
	stop := func(after time.Duration, which func(*supervise.Process) bool) error {
		grace := after - time.Since(begun)
		var group sync.WaitGroup
		failures := make([]error, len(processes))
		for i, p := range processes {
			if which(p) {
				group.Go(func() { failures[i] = p.Stop(grace) })
			}
		}
		group.Wait()
		return errors.Join(failures...)
	}
	err := errors.Join(
		stop(executorsEnd, are("executor-")),
		stop(registriesEnd, are("registry-")),
		stop(standinsEnd, are("")),
	)
	return err
}

func writeJSON(path string, content any) error {
	text, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}
