package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

type workerService struct {
	almanacv1.UnimplementedWorkerServiceServer
	*rooms
}

// ListWorkers implements the RPC of that name.
func (s *workerService) ListWorkers(ctx context.Context, _ *almanacv1.ListWorkersRequest) (*almanacv1.ListWorkersResponse, error) {
	sessions, err := s.Store.Sessions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	slices.SortFunc(sessions, func(a, b store.Session) int { return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.ID, b.ID)) })
	out, now := &almanacv1.ListWorkersResponse{}, s.Now()
	for _, session := range sessions {
		out.Workers = append(out.Workers, workerMessage(session, now))
	}
	return out, nil
}

// DrainWorker implements the RPC of that name.
func (s *workerService) DrainWorker(ctx context.Context, req *almanacv1.DrainWorkerRequest) (*almanacv1.DrainWorkerResponse, error) {
	w, err := s.drain(ctx, req.Id, true, "worker.drain")
	if err != nil {
		return nil, err
	}
	return &almanacv1.DrainWorkerResponse{Worker: w, Message: "Worker draining"}, nil
}

// ResumeWorker implements the RPC of that name.
func (s *workerService) ResumeWorker(ctx context.Context, req *almanacv1.ResumeWorkerRequest) (*almanacv1.ResumeWorkerResponse, error) {
	w, err := s.drain(ctx, req.Id, false, "worker.resume")
	if err != nil {
		return nil, err
	}
	return &almanacv1.ResumeWorkerResponse{Worker: w, Message: "Worker resumed"}, nil
}

// drain sets whether the worker gets any more work. What is so already stays
// unwritten, and is not audited.
func (s *workerService) drain(ctx context.Context, id string, drain bool, action string) (*almanacv1.Worker, error) {
	sessions, err := s.Store.Sessions(ctx)
	if err != nil {
		return nil, fmt.Errorf("read worker %s: %w", id, err)
	}
	at := slices.IndexFunc(sessions, func(w store.Session) bool { return w.ID == id })
	if at < 0 {
		return nil, noWorker(id)
	}
	before, now := sessions[at], s.Now()
	if before.Draining == drain {
		return workerMessage(before, now), nil
	}
	after := before
	after.Draining = drain
	a, err := audit(ctx, now, action, id, workerMessage(before, now), workerMessage(after, now))
	if err != nil {
		return nil, err
	}
	stored, err := s.Store.DrainSession(ctx, id, drain, a)
	switch {
	case errors.Is(err, job.ErrNotFound):
		return nil, noWorker(id)
	case err != nil:
		return nil, fmt.Errorf("drain worker %s: %w", id, err)
	}
	return workerMessage(stored, now), nil
}

func noWorker(id string) error {
	return fail(kindNotFound, "there is no worker %s, or it has ended: list the workers for those that live", id)
}

// ListRegistries implements the RPC of that name.
func (s *workerService) ListRegistries(ctx context.Context, _ *almanacv1.ListRegistriesRequest) (*almanacv1.ListRegistriesResponse, error) {
	replicas, err := s.Store.Replicas(ctx)
	if err != nil {
		return nil, fmt.Errorf("list registries: %w", err)
	}
	slices.SortFunc(replicas, func(a, b store.Replica) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	out, now := &almanacv1.ListRegistriesResponse{}, s.Now()
	for _, r := range replicas {
		out.Registries = append(out.Registries, &almanacv1.Registry{
			Id: r.ID, Name: r.Name, Version: r.Version, ConnectedAt: timestamp(r.OpenedAt),
			LastBeatAt: timestamp(r.LastBeatAt), LastBeatAgeSeconds: seconds(r.LastBeatAt, now),
		})
	}
	return out, nil
}

func workerMessage(w store.Session, now time.Time) *almanacv1.Worker {
	out := &almanacv1.Worker{
		Id: w.ID, Host: w.Host, Version: w.Version, Labels: w.Labels, Templates: w.Templates, Slots: int32(w.Slots), Running: int32(w.Running),
		Status: "ready", Draining: w.Draining, ConnectedAt: timestamp(w.OpenedAt),
		LastBeatAt: timestamp(w.LastBeatAt), LastBeatAgeSeconds: seconds(w.LastBeatAt, now),
	}
	if w.Slots > 0 {
		out.Load = float64(w.Running) / float64(w.Slots)
	}
	switch {
	case w.Stopping:
		out.Status = "stopping"
	case w.Draining:
		out.Status = "draining"
	}
	return out
}
