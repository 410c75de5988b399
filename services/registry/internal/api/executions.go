package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// firstLogs is how many lines stand beside an execution; the rest comes by page.
const firstLogs = 1000

type executionService struct {
	almanacv1.UnimplementedExecutionServiceServer
	*rooms
}

// ListExecutions implements the RPC of that name.
func (s *executionService) ListExecutions(ctx context.Context, req *almanacv1.ListExecutionsRequest) (*almanacv1.ListExecutionsResponse, error) {
	_, limit, offset := paging(req.Page, req.Limit, 50)
	filter := store.ExecutionFilter{JobID: req.Id, Offset: offset, Limit: limit}
	for _, status := range req.Status {
		filter.Statuses = append(filter.Statuses, job.Status(status))
	}
	page, total, err := s.Store.Executions(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("list executions: %w", err)
	}
	if total == 0 { // of a job without any, or of none; a deleted one is one
		if _, err := s.Store.Job(ctx, req.Id); err != nil {
			return nil, noSuch("job", req.Id, err)
		}
	}
	out := &almanacv1.ListExecutionsResponse{Total: int32(total)}
	out.Executions, err = s.messages(page)
	return out, err
}

// messages describes executions, those that run with their progress.
func (s *executionService) messages(page []*job.Execution) ([]*almanacv1.Execution, error) {
	var out []*almanacv1.Execution
	for _, e := range page {
		m, err := executionMessage(e, s.Dispatcher.Progress)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// failedWithin is how far back failures are listed when nothing is said.
const failedWithin = 24 * time.Hour

// ListActivity implements the RPC of that name.
func (s *executionService) ListActivity(ctx context.Context, req *almanacv1.ListActivityRequest) (*almanacv1.ListActivityResponse, error) {
	_, limit, offset := paging(req.Page, req.Limit, 50)
	since, err := moment("since", req.Since, s.Now().Add(-failedWithin))
	if err != nil {
		return nil, err
	}
	var page []*job.Execution
	var total int
	if req.State == "failed" {
		page, total, err = s.Store.Failures(ctx, since, offset, limit)
	} else {
		page, total, err = s.Store.Live(ctx, offset, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("list what goes on: %w", err)
	}
	out := &almanacv1.ListActivityResponse{Total: int32(total)}
	out.Executions, err = s.messages(page)
	return out, err
}

func (s *executionService) find(ctx context.Context, id string) (*job.Execution, error) {
	e, err := s.Store.Execution(ctx, id)
	return e, noSuch("execution", id, err)
}

// GetExecution implements the RPC of that name.
func (s *executionService) GetExecution(ctx context.Context, req *almanacv1.GetExecutionRequest) (*almanacv1.GetExecutionResponse, error) {
	e, err := s.find(ctx, req.ExecutionId)
	if err != nil {
		return nil, err
	}
	m, err := executionMessage(e, s.Dispatcher.Progress)
	if err != nil {
		return nil, err
	}
	if m.Notifications, err = s.notifications(ctx, e); err != nil {
		return nil, err
	}
	lines, _, err := s.Store.Logs(ctx, req.ExecutionId, 0, firstLogs)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	return &almanacv1.GetExecutionResponse{Execution: m, Logs: logLines(lines)}, nil
}

// notifications are those that the execution's end called for.
func (s *executionService) notifications(ctx context.Context, e *job.Execution) ([]*almanacv1.Notification, error) {
	ids := dispatch.NotificationIDs(e)
	if len(ids) == 0 || !e.Status.Ended() {
		return nil, nil
	}
	found, err := s.Store.Find(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("find the notifications: %w", err)
	}
	slices.SortFunc(found, func(a, b *job.Execution) int {
		return slices.Index(ids, a.ID) - slices.Index(ids, b.ID)
	})
	var out []*almanacv1.Notification
	for _, n := range found {
		out = append(out, &almanacv1.Notification{
			ExecutionId: n.ID, Event: dispatch.NotificationEvent(n.Key), TemplateType: n.Frozen.TemplateType, Status: string(n.Status), Error: text(n.Error),
		})
	}
	return out, nil
}

// ListLogs implements the RPC of that name.
func (s *executionService) ListLogs(ctx context.Context, req *almanacv1.ListLogsRequest) (*almanacv1.ListLogsResponse, error) {
	_, limit, offset := paging(req.Page, req.Limit, firstLogs)
	lines, total, err := s.Store.Logs(ctx, req.ExecutionId, offset, limit)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	if total == 0 {
		if _, err := s.find(ctx, req.ExecutionId); err != nil {
			return nil, err
		}
	}
	return &almanacv1.ListLogsResponse{Logs: logLines(lines), Total: int32(total)}, nil
}

// CancelExecution implements the RPC of that name.
func (s *executionService) CancelExecution(ctx context.Context, req *almanacv1.CancelExecutionRequest) (*almanacv1.CancelExecutionResponse, error) {
	before, err := s.find(ctx, req.ExecutionId)
	if err != nil {
		return nil, err
	}
	if err := callerOf(ctx).MayCancel(before.TriggeredByUser); err != nil {
		return nil, err
	}
	now := s.Now()
	a, err := s.audit(ctx, "execution.cancel", before, func(after *job.Execution) {
		after.CancelRequested = true
		after.CancelReason = req.Reason
	})
	if err != nil {
		return nil, err
	}
	e, err := s.Store.RequestCancel(ctx, store.Cancel{ID: req.ExecutionId, Reason: req.Reason, Now: now, Audit: a})
	if errors.Is(err, job.ErrEnded) {
		return nil, fail(kindEnded, "execution %s is over already: there is nothing to cancel", req.ExecutionId)
	}
	if err != nil {
		return nil, noSuch("execution", req.ExecutionId, err)
	}
	message := "Execution cancelled"
	if !e.Status.Ended() {
		s.Dispatcher.CancelRequested(e)
		message = "Execution is being cancelled"
	}
	m, err := executionMessage(e, s.Dispatcher.Progress)
	if err != nil {
		return nil, err
	}
	return &almanacv1.CancelExecutionResponse{Execution: m, Message: message}, nil
}

// ResolveExecution implements the RPC of that name.
func (s *executionService) ResolveExecution(ctx context.Context, req *almanacv1.ResolveExecutionRequest) (*almanacv1.ResolveExecutionResponse, error) {
	before, err := s.find(ctx, req.ExecutionId)
	if err != nil {
		return nil, err
	}
	if before.Status != job.Unknown {
		return nil, fail(kindEnded, "the end of execution %s is not unknown but %s: there is nothing to resolve", before.ID, before.Status)
	}
	resolved := before.Resolved(job.Status(req.Status), req.Reason)
	a, err := s.audit(ctx, "execution.resolve", before, func(after *job.Execution) { *after = *resolved })
	if err != nil {
		return nil, err
	}
	answer := s.Store.Do(ctx, s.Now(), []store.Op{&store.Change{Status: before.Status, Token: before.Token, To: resolved, Audit: a}})[0]
	switch answer.Outcome {
	case store.Lost:
		return nil, job.ErrConflict // a late result came in
	case store.Unknown:
		return nil, fmt.Errorf("resolve execution %s: %w", before.ID, answer.Err)
	case store.Done:
	}
	m, err := executionMessage(resolved, s.Dispatcher.Progress)
	if err != nil {
		return nil, err
	}
	return &almanacv1.ResolveExecutionResponse{Execution: m, Message: "Execution resolved"}, nil
}

// audit describes what change does to the execution.
func (s *executionService) audit(ctx context.Context, action string, e *job.Execution, change func(*job.Execution)) (*store.Audit, error) {
	changed := *e
	change(&changed)
	before, err := executionMessage(e, s.Dispatcher.Progress)
	if err != nil {
		return nil, err
	}
	after, err := executionMessage(&changed, s.Dispatcher.Progress)
	if err != nil {
		return nil, err
	}
	return audit(ctx, s.Now(), action, e.ID, before, after)
}
