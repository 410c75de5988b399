package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
)

const (
	watchEvery    = 500 * time.Millisecond
	quietLooks    = 30 // without news, after which an empty message keeps proxies from closing
	trustedLooks  = 30 // after which the caller's token is looked up again
	watchesOfUser = 8
	watchesInAll  = 500
)

// watches counts the live logs that are open. The zero value is ready, and safe
// for concurrent use.
type watches struct {
	mu   sync.Mutex
	open map[string]int // by user
	all  int
}

// enter counts one more until leave is called.
func (w *watches) enter(user string) (leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.open[user] >= watchesOfUser:
		return nil, retry(fail(kindLimit, "%d live logs are open already: close one, or read the log by page", watchesOfUser), retrySoon)
	case w.all >= watchesInAll:
		return nil, retry(fail(kindLimit, "%d live logs are open at this registry: try again later, or read the log by page", watchesInAll), retrySoon)
	}
	if w.open == nil {
		w.open = map[string]int{}
	}
	w.open[user]++
	w.all++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all--
		if w.open[user]--; w.open[user] == 0 {
			delete(w.open, user)
		}
	}, nil
}

// WatchExecution implements the RPC of that name.
func (s *executionService) WatchExecution(req *almanacv1.WatchExecutionRequest, stream grpc.ServerStreamingServer[almanacv1.WatchExecutionResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(dispatch.ErrStopped) })()
	leave, err := s.watches.enter(callerOf(ctx).User)
	if err != nil {
		return err
	}
	defer leave()
	ticks, stop := s.Every(watchEvery)
	defer stop()

	w := watch{executionService: s, id: req.ExecutionId, line: int(req.GetFromLine())}
	for quiet, looks := 0, 1; ; looks++ {
		if looks%trustedLooks == 0 {
			if err := s.mayStill(ctx); err != nil {
				return err
			}
		}
		news, more, err := w.look(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		if quiet++; quiet >= quietLooks && news == nil {
			news = &almanacv1.WatchExecutionResponse{FirstLine: int32(w.line)}
		}
		if news != nil {
			quiet = 0
			if err := stream.Send(news); err != nil {
				return err //nolint:wrapcheck // grpc's own: the client left
			}
			if news.Over {
				return nil
			}
		}
		if more {
			continue
		}
		select {
		case <-ticks:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mayStill returns nil while the caller's token is good for a watch.
func (s *executionService) mayStill(ctx context.Context) error {
	authorization := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(authorization) != 1 {
		return access.ErrNoToken
	}
	_, err := s.Guard.Check(ctx, almanacv1.ExecutionService_WatchExecution_FullMethodName, authorization[0])
	return err
}

// watch is what one caller has seen of an execution.
type watch struct {
	*executionService
	id    string
	line  int                  // the next of the log
	shown *almanacv1.Execution // as last sent
	ended bool                 // it was over already when last looked at
}

// look returns what is new, nil for nothing, and whether there is more of it at
// once.
func (w *watch) look(ctx context.Context) (news *almanacv1.WatchExecutionResponse, more bool, err error) {
	e, err := w.find(ctx, w.id)
	if err != nil {
		return nil, false, err
	}
	m, err := executionMessage(e, w.Dispatcher.Progress)
	if err != nil {
		return nil, false, err
	}
	if m.Notifications, err = w.notifications(ctx, e); err != nil {
		return nil, false, err
	}
	lines, total, err := w.Store.Logs(ctx, w.id, w.line, firstLogs)
	if err != nil {
		return nil, false, fmt.Errorf("read the log: %w", err)
	}
	news = &almanacv1.WatchExecutionResponse{Logs: logLines(lines), FirstLine: int32(w.line)}
	w.line += len(lines)
	more = len(lines) > 0 && w.line < total
	if !more {
		// Lines may land until just after the end: one more look after it was seen
		// finds them.
		news.Over = w.ended && e.Status.Ended()
		w.ended = e.Status.Ended()
	}
	if !proto.Equal(m, w.shown) {
		news.Execution, w.shown = m, m
	}
	if news.Execution == nil && len(lines) == 0 && !news.Over {
		return nil, false, nil
	}
	return news, more, nil
}
