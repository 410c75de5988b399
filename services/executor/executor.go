// Package executor runs what registries lease: it wires a session, which talks
// to them, to the child processes that do the work.
package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	"github.com/almanac-scheduler/almanac/pkg/telemetry"
	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	"github.com/almanac-scheduler/almanac/services/executor/internal/builtin"
	"github.com/almanac-scheduler/almanac/services/executor/internal/children"
	"github.com/almanac-scheduler/almanac/services/executor/internal/session"
)

const (
	// settleTime is how long a drained executor waits for acknowledgements.
	settleTime = 5 * time.Second
	// openFiles is what a run may open at a time.
	openFiles = 256
	// nobody is who a run is when the executor is root.
	nobody = 65534
)

// Run connects to the registries and works until config.Drain is closed and what
// runs has ended, or a registry drains it: then it returns nil. When ctx ends,
// all work is killed at once and the context's cause is returned. An error at
// the start names what cannot work.
func Run(ctx context.Context, config Config) error {
	if err := config.validate(); err != nil {
		return err
	}
	logger, err := telemetry.NewLogger(os.Stderr, config.LogFormat, config.LogLevel)
	if err != nil {
		return err
	}
	defer logger.Sync()
	connections, err := config.connections()
	if err != nil {
		return err
	}
	pool, err := children.New(children.Config{
		Path: config.Runner,
		Setup: runner.Setup{
			MemoryBytes: int64(config.MemoryMB) << 20, CPUSeconds: int64(config.CPUSeconds), OpenFiles: openFiles, UID: nobody, GID: nobody,
		},
		Size: config.Slots, MaxRuns: config.ChildRuns, Idle: config.ChildIdle, KillGrace: config.KillGrace,
		Logger: logger, After: after,
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	described, isolation, err := pool.Describe(ctx)
	if err != nil {
		return err
	}
	inside, err := inProcess(config)
	if err != nil {
		return err
	}
	offered, err := offer(config, connections, described, isolation, inside, logger)
	if err != nil {
		return err
	}
	s, err := session.New(session.Config{
		Registries: config.Registries, Lookup: addressesOf,
		TLS:   rpc.TLS{Plaintext: config.Plaintext, CAFile: config.CAFile, ServerName: config.ServerName},
		Token: rpc.TokenFile(config.TokenFile),
		Host:  config.Name, Version: version(), Labels: config.Labels,
		Templates: announced(offered), Slots: config.Slots,
		Runner:   &router{offered: offered, pool: pool},
		LogLines: config.LogLines, LogBytes: config.LogKB << 10,
		Grace: config.Grace, SettleTime: settleTime,
		Logger: logger, Now: time.Now, After: after,
	})
	if err != nil {
		return err
	}
	stop, err := serveHealth(ctx, config.HealthAddr, s.Ready, logger)
	if err != nil {
		return err
	}
	defer stop()
	return s.Run(ctx, config.Drain)
}

// addressesOf returns the addresses of a host.
func addressesOf(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func after(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }

// version is that of the module, as far as the build knows it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// noop is a template for measuring everything but the work.
type noop struct{ maxConcurrency int }

const noopType = "noop"

func (n noop) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type: noopType, Version: 1, Name: "No operation", Description: "Does nothing, inside the executor: for measuring",
		Category: "measuring", Icon: "⏱", EstimatedDuration: "no time", ResourceUsage: "low", RiskLevel: "low", Idempotent: true,
		MaxConcurrency: n.maxConcurrency,
	}
}

func (noop) Schema() map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{}, "additionalProperties": false}
}

func (noop) ValidateParams(map[string]any) error { return nil }

func (noop) Execute(context.Context, *template.Run) (template.Result, error) {
	return template.Result{"message": "Nothing was done."}, nil
}

// inProcess returns the templates that run inside the executor.
func inProcess(config Config) (map[string]*template.Compiled, error) {
	shipped, err := template.NewSet(builtin.Templates()...)
	if err != nil {
		return nil, err
	}
	inside := map[string]*template.Compiled{}
	for _, name := range config.InProcess {
		t, ok := shipped.Get(name)
		if !ok {
			return nil, fmt.Errorf("in_process: %q is not a shipped template", name)
		}
		if d := t.Descriptor; !d.Idempotent || d.Destructive || d.ConnectionKind != "" {
			return nil, fmt.Errorf("in_process: %q may only run in a child process: it is not idempotent, or destroys, or connects", name)
		}
		inside[name] = t
	}
	if config.BenchNoop {
		if inside[noopType], err = template.Compile(noop{maxConcurrency: config.BenchNoopMaxConcurrency}); err != nil {
			return nil, err
		}
	}
	return inside, nil
}

// offering is one template as this executor offers it.
type offering struct {
	session.Template
	connections map[string]template.Connection
	inside      *template.Compiled // nil when it runs in a child
}

// offer puts together what the runner has with what the configuration permits.
// A template that could not run here is left out, and said so.
func offer(config Config, connections map[string]template.Connection, described []runner.Description, isolation []string,
	inside map[string]*template.Compiled, logger *zap.Logger,
) (map[string]offering, error) {
	offered := map[string]offering{}
	known := map[string][]string{} // restricted parameters by template
	for _, d := range described {
		descriptor := d.Descriptor
		known[descriptor.Type] = descriptor.Restricted
		if descriptor.ConnectionKind != "" && !slices.Contains(descriptor.Restricted, collectionParam) {
			// Its collection is fixed, yet it may touch it only where that is permitted.
			known[descriptor.Type] = append(slices.Clone(descriptor.Restricted), collectionParam)
		}
		o := offering{
			Template:    session.Template{Descriptor: descriptor, Schema: d.Schema, Isolation: isolation, Allowed: map[string][]string{}},
			connections: map[string]template.Connection{},
		}
		if descriptor.ConnectionKind != "" {
			for name, connection := range connections {
				if connection.Kind == descriptor.ConnectionKind {
					o.connections[name] = connection
				}
			}
			if len(o.connections) == 0 {
				logger.Info("A template is not offered: no connection of its kind is configured",
					zap.String("template", descriptor.Type), zap.String("kind", descriptor.ConnectionKind))
				continue
			}
		}
		missing := ""
		if permitted := config.Allow[descriptor.Type][collectionParam]; len(permitted) > 0 {
			o.Allowed[collectionParam] = slices.Sorted(slices.Values(permitted))
		}
		for _, parameter := range descriptor.Restricted {
			allowed := slices.Sorted(slices.Values(config.Allow[descriptor.Type][parameter]))
			if parameter == connectionParam && len(allowed) == 0 {
				allowed = slices.Sorted(maps.Keys(o.connections))
			}
			if len(allowed) == 0 {
				missing = parameter
			}
			if parameter == connectionParam {
				maps.DeleteFunc(o.connections, func(name string, _ template.Connection) bool { return !slices.Contains(allowed, name) })
			}
			o.Allowed[parameter] = allowed
		}
		if missing != "" {
			logger.Info("A template is not offered: the configuration allows no value for a parameter",
				zap.String("template", descriptor.Type), zap.String("parameter", missing))
			continue
		}
		offered[descriptor.Type] = o
	}
	for name, parameters := range config.Allow {
		restricted, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("allow.%s: the runner has no such template", name)
		}
		for parameter := range parameters {
			if !slices.Contains(restricted, parameter) {
				return nil, fmt.Errorf("allow.%s.%s: only %s can be restricted", name, parameter, strings.Join(restricted, ", "))
			}
		}
	}
	for name, t := range inside {
		offered[name] = offering{
			Template: session.Template{Descriptor: t.Descriptor, Schema: t.Template.Schema(), Quiet: name == noopType},
			inside:   t,
		}
	}
	if len(offered) == 0 {
		return nil, errors.New("no template can be offered: configure the connections and values that the runner's templates need")
	}
	return offered, nil
}

const (
	// connectionParam names the parameter that picks one of several connections.
	connectionParam = "connection"
	// collectionParam names what a template may touch, whether or not its
	// collection is a parameter.
	collectionParam = "collection"
)

// announced lists what is offered, by type.
func announced(offered map[string]offering) []session.Template {
	all := make([]session.Template, 0, len(offered))
	for _, o := range offered {
		all = append(all, o.Template)
	}
	slices.SortFunc(all, func(a, b session.Template) int { return strings.Compare(a.Descriptor.Type, b.Descriptor.Type) })
	return all
}

// router sends each run where its template runs, with the secrets that are its.
type router struct {
	offered map[string]offering
	pool    session.Runner
}

// Run performs one attempt; see session.Runner.
func (r *router) Run(ctx context.Context, run *runner.Run, report template.Reporter) (*runner.Result, []string) {
	o, ok := r.offered[run.Template]
	if !ok {
		return &runner.Result{
			Status: runner.StatusFailed, ErrorCode: template.CodeValidation,
			Error: fmt.Sprintf("Template %q is not offered by this executor.", run.Template),
		}, nil
	}
	run.Connections, run.Allowed = o.connections, o.Allowed
	if o.inside == nil {
		return r.pool.Run(ctx, run, report)
	}
	result := runner.Execute(ctx, o.inside, run, report)
	if result.Status == runner.StatusCancelled && !errors.Is(context.Cause(ctx), runner.ErrCancelled) {
		return nil, nil // killed, as far as that goes inside
	}
	return result, nil
}

// serveHealth answers probes until the function it returns is called.
func serveHealth(ctx context.Context, address string, ready func() error, logger *zap.Logger) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("health_addr: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("Health probes are not answered any more", zap.Error(err))
		}
	}()
	logger.Info("Answering health probes", zap.String("address", listener.Addr().String()))
	return func() {
		_ = server.Close() // the listener is closed with it
		<-done
	}, nil
}
