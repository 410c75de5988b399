// Package executor runs what registries lease: it wires a session, which talks
// to them, to the child processes that do the work.
package executor

import (
	"context"
	"encoding/json"
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
	if err := shareFolders(connections, nobody); err != nil {
		return err
	}
	settings, err := config.templateSettings()
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
	described, isolation, err := pool.Describe(ctx, settings, connections)
	if err != nil {
		return err
	}
	if err := checkSettings(settings, described); err != nil {
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
		if d := t.Descriptor; !d.Idempotent || d.Destructive || len(d.Connections) > 0 {
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
	connections map[string]template.Connection // by name
	settings    map[string]any
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
		known[descriptor.Type] = restrictable(descriptor)
		o := offering{
			Template: session.Template{Descriptor: descriptor, Schema: d.Schema, Isolation: isolation, Allowed: map[string][]string{}},
			settings: d.Settings, connections: connections,
		}
		allow := config.Allow[descriptor.Type]
		if permitted := allow[collectionParam]; len(permitted) > 0 {
			o.Allowed[collectionParam] = slices.Sorted(slices.Values(permitted))
		}
		missing := ""
		for _, parameter := range descriptor.Restricted {
			values, limited := possible(parameter, d, connections)
			if permitted, said := allow[parameter]; said || !limited {
				values = narrowed(permitted, values, limited)
			}
			if len(values) == 0 && needs(d, parameter) {
				missing = parameter
			}
			o.Allowed[parameter] = values
		}
		if missing != "" {
			logger.Info("A template is not offered: the configuration has no connection, or allows no value, for a parameter",
				zap.String("template", descriptor.Type), zap.String("parameter", missing), zap.String("connection_kind", descriptor.Connections[missing]))
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
		o := offering{
			Template: session.Template{Descriptor: t.Descriptor, Schema: t.Template.Schema(), Quiet: name == noopType},
			inside:   t,
		}
		// What the runner said of the same template holds for it here.
		o.settings, o.Allowed = offered[name].settings, offered[name].Allowed
		offered[name] = o
	}
	if len(offered) == 0 {
		return nil, errors.New("no template can be offered: configure the connections and values that the runner's templates need")
	}
	return offered, nil
}

// restrictable names the parameters of a template that allow may list: those
// restricted, and for all that works on databases the collection, which may be
// touched only where that is permitted even if it is fixed.
func restrictable(d template.Descriptor) []string {
	names := d.Restricted
	if slices.Contains(slices.Collect(maps.Values(d.Connections)), template.KindMongoDB) && !slices.Contains(names, collectionParam) {
		names = append(slices.Clone(names), collectionParam)
	}
	return names
}

// possible returns the values that a restricted parameter can have here, sorted,
// and whether anything but allow limits them: the connections that there are, or
// the template's settings.
func possible(parameter string, d runner.Description, connections map[string]template.Connection) (values []string, limited bool) {
	kind, limited := d.Descriptor.Connections[parameter]
	if limited {
		for name, connection := range connections {
			if connection.Kind == kind {
				values = append(values, name)
			}
		}
	}
	if restricted, also := d.Restricted[parameter]; also {
		values, limited = narrowed(restricted, values, limited), true
	}
	slices.Sort(values)
	return values, limited
}

// narrowed returns the permitted values, sorted; only those that are possible,
// too, where that is limited.
func narrowed(permitted, possible []string, limited bool) []string {
	values := slices.Sorted(slices.Values(permitted))
	if limited {
		values = slices.DeleteFunc(values, func(v string) bool { return !slices.Contains(possible, v) })
	}
	return values
}

// needs reports whether no run of the template can do without a value for the
// parameter.
func needs(d runner.Description, parameter string) bool {
	required, _ := d.Schema["required"].([]any)
	return slices.Contains(required, any(parameter)) || slices.Contains(d.Descriptor.Implied, parameter)
}

// chosen returns the connections that a run's parameters name, and those that
// they imply.
func (o offering) chosen(params []byte) map[string]template.Connection {
	if len(o.Descriptor.Connections) == 0 {
		return nil
	}
	var given map[string]any
	if json.Unmarshal(params, &given) != nil {
		given = nil // the runner will say what is wrong with them
	}
	connections := map[string]template.Connection{}
	for parameter := range o.Descriptor.Connections {
		allowed := o.Allowed[parameter]
		name, named := given[parameter].(string)
		if !named && len(allowed) == 1 && slices.Contains(o.Descriptor.Implied, parameter) {
			name = allowed[0]
		}
		if slices.Contains(allowed, name) {
			connections[name] = o.connections[name]
		}
	}
	return connections
}

// collectionParam names what a template may touch, whether or not its collection
// is a parameter.
const collectionParam = "collection"

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
	run.Connections, run.Allowed, run.Settings = o.chosen(run.Params), o.Allowed, o.settings
	if o.inside == nil {
		masked := newMask(run.Connections, report)
		result, isolation := r.pool.Run(ctx, run, masked)
		masked.result(result)
		return result, isolation
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
