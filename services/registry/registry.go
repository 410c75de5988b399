// Package registry is the service that owns the definitions of jobs, decides
// when they run, and leases their runs to executors. This file is the only place
// that reads the clock.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/telemetry"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/api"
	"github.com/almanac-scheduler/almanac/services/registry/internal/console"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

// How often the owner of the clock looks at its parts.
const (
	healthEvery = time.Second
	tidyEvery   = time.Hour
	rollUpEvery = 2 * time.Second
	// Each of those that share a store counts what ended, and reads what the
	// last seconds hold anew.
	rollUpShared = 10 * time.Second
	learnEvery   = 5 * time.Second       // what was announced at other registries
	readyEvery   = 20 * time.Millisecond // until it is
	mostRollUps  = 50                    // steps in a row
)

// Run is a registry from its start to the end of ctx. It returns nil when ctx
// ended it, after everything it acknowledged is durable; else what went wrong,
// naming the setting if it is one.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	log, err := telemetry.NewLogger(os.Stderr, cfg.LogFormat, cfg.LogLevel)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	token, err := cfg.executorToken()
	if err != nil {
		return err
	}
	if token == "" {
		log.Warn("no executor_token_file: executors are not let in, so nothing will run")
	}
	s, err := openStore(ctx, cfg, log)
	if err != nil {
		return err
	}
	err = runOn(ctx, cfg, s, token, log)
	return errors.Join(err, s.Close())
}

// runOn runs on a store that the caller closes afterwards.
func runOn(ctx context.Context, cfg Config, s store.Store, executorToken string, log *zap.Logger) error {
	guard, err := access.New(s, executorToken, time.Now)
	if err != nil {
		return err
	}
	catalogue := templates.New(s, log.Named("templates"))
	if err := catalogue.Refresh(ctx); err != nil {
		return err
	}
	for _, system := range dispatch.SystemJobs(time.Now()) {
		if _, _, err := s.CreateJob(ctx, store.CreateJob{Job: system}); err != nil {
			return fmt.Errorf("prepare the store for %s: %w", strings.ToLower(system.Name), err)
		}
	}
	dispatcher := dispatch.New(s, dispatch.Config{
		Policy: dispatch.Policy{
			MissedAfter: cfg.MissedAfter, Idempotent: catalogue.Idempotent, MaxConcurrency: catalogue.MaxConcurrency, PublicURL: cfg.PublicURL,
		},
		SessionTTL: cfg.SessionTTL, Replica: replica(cfg, s), Now: time.Now, Log: log.Named("dispatch"),
	})
	version, _ := build()
	server, err := api.New(api.Config{
		Store: s, Dispatcher: dispatcher, Templates: catalogue, Guard: guard, Name: cfg.Name, SessionTTL: cfg.SessionTTL,
		MaxJobs: cfg.MaxJobs, ManualRunsPerHour: cfg.ManualRunsPerHour, TLS: cfg.tls(), Now: time.Now, Log: log.Named("api"),
		PublicURL: cfg.PublicURL, Version: version, Console: console.Files(), Every: ticker,
		OpenStream: func(ctx context.Context, h dispatch.Hello) (api.LeaseStream, error) {
			stream, err := dispatcher.Open(ctx, h)
			if err != nil {
				return nil, err // not a nil pointer in a non-nil interface
			}
			return stream, nil
		},
	})
	if err != nil {
		return err
	}
	rest, grpc, err := listen(ctx, cfg)
	if err != nil {
		return err
	}

	// Requests end before the dispatcher that they need, and both before the
	// store is closed.
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	dispatching, stopDispatching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDispatching()
	var parts sync.WaitGroup
	var dispatched, announced error // read after parts.Wait
	parts.Go(func() {
		defer stopServing()
		if err := dispatcher.Run(dispatching); err != nil && dispatching.Err() == nil {
			dispatched = fmt.Errorf("dispatch: %w", err)
		}
	})
	at := Addresses{HTTP: rest.Addr().String(), GRPC: grpc.Addr().String()}
	parts.Go(func() {
		if err := announce(serving, cfg, at, dispatcher, s, log); err != nil {
			log.Error("the ready file could not be written", zap.Error(err))
			announced = err
			stopServing()
		}
	})
	parts.Go(func() { every(serving, healthEvery, func() { server.UpdateHealth(serving) }) })
	parts.Go(func() {
		every(serving, learnEvery, func() {
			if err := catalogue.Refresh(serving); err != nil && serving.Err() == nil {
				log.Warn("the templates could not be read again", zap.Error(err))
			}
		})
	})
	parts.Go(func() {
		every(serving, tidyEvery, func() {
			if err := s.DeleteExpiredTokens(serving, time.Now()); err != nil {
				log.Warn("expired tokens could not be deleted", zap.Error(err))
			}
		})
	})
	parts.Go(func() {
		var quiet bool // since the last success, a failure was told
		pace := rollUpEvery
		if shares(s) {
			pace = rollUpShared
		}
		every(serving, pace, func() {
			err := rollUp(serving, s)
			if err != nil && !quiet && serving.Err() == nil {
				log.Warn("what ended could not be counted", zap.Error(err))
			}
			quiet = err != nil
		})
	})
	served := server.Serve(serving, rest, grpc)
	stopServing()
	stopDispatching()
	parts.Wait()
	log.Info("stopped")
	return errors.Join(served, dispatched, announced)
}

// rollUp counts what ended since it was last counted. What a bounded number of
// steps leaves, as after a move from another store, is left to the next call.
func rollUp(ctx context.Context, s store.Insight) error {
	for range mostRollUps {
		more, err := s.RollUp(ctx, time.Now())
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// shares tells whether the store may have several registries.
func shares(s store.Store) bool {
	shared, ok := s.(interface{ Shared() bool })
	return ok && shared.Shared()
}

// replica is what this registry is called among those that share the store, or
// nothing where it is the only one.
func replica(cfg Config, s store.Store) store.Replica {
	if !shares(s) {
		return store.Replica{}
	}
	version, _ := build()
	return store.Replica{ID: job.NewID("reg_"), Name: cfg.Name, Version: version, OpenedAt: time.Now().UTC()}
}

func listen(ctx context.Context, cfg Config) (rest, grpc net.Listener, err error) {
	var config net.ListenConfig
	if rest, err = config.Listen(ctx, "tcp", cfg.HTTPAddr); err != nil {
		return nil, nil, fmt.Errorf("http_addr: %w", err)
	}
	if grpc, err = config.Listen(ctx, "tcp", cfg.GRPCAddr); err != nil {
		rest.Close()
		return nil, nil, fmt.Errorf("grpc_addr: %w", err)
	}
	return rest, grpc, nil
}

// announce tells where the registry is, once it works.
func announce(ctx context.Context, cfg Config, at Addresses, dispatcher *dispatch.Dispatcher, s store.Store, log *zap.Logger) error {
	for dispatcher.Ready() != nil || s.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readyEvery):
		}
	}
	log.Info("ready", zap.String("http", at.HTTP), zap.String("grpc", at.GRPC), zap.Bool("tls", cfg.TLSCertFile != ""))
	if cfg.ReadyFile != "" {
		content, err := json.Marshal(at)
		if err != nil {
			return fmt.Errorf("ready_file: %w", err)
		}
		// Renamed into place: whoever sees the file sees all of it.
		if err := os.WriteFile(cfg.ReadyFile+".new", append(content, '\n'), 0o600); err != nil {
			return fmt.Errorf("ready_file: %w", err)
		}
		if err := os.Rename(cfg.ReadyFile+".new", cfg.ReadyFile); err != nil {
			return fmt.Errorf("ready_file: %w", err)
		}
	}
	if cfg.Ready != nil {
		cfg.Ready(at)
	}
	return nil
}

// ticker is time's.
func ticker(interval time.Duration) (ticks <-chan time.Time, stop func()) {
	t := time.NewTicker(interval)
	return t.C, t.Stop
}

// every calls f now and then until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// withGuard opens the store for one administrative command.
func withGuard(ctx context.Context, cfg Config, f func(*access.Guard) error) error {
	log, err := telemetry.NewLogger(os.Stderr, cfg.LogFormat, cfg.LogLevel)
	if err != nil {
		return err
	}
	s, err := openStore(ctx, cfg, log)
	if err != nil {
		return err
	}
	guard, err := access.New(s, "", time.Now)
	if err == nil {
		err = f(guard)
	}
	return errors.Join(err, s.Close())
}

// timed gives a move the real time. Registries that live beat several times a TTL.
func timed(m move.Move, ttl time.Duration) move.Move {
	m.Now = time.Now()
	m.Settle = func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(ttl):
			return nil
		}
	}
	return m
}

// expiry is when something that is good for so long from now on expires.
func expiry(lifetime time.Duration) time.Time { return time.Now().UTC().Add(lifetime) }
