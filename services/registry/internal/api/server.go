// Package api is the registry's border: gRPC services for people, programs and
// executors, and the same services as REST through an in-process gateway. Every
// request, whichever way it came, passes the same interceptors: who is it, may
// it, is it well-formed. Errors of the other rooms become codes by one table.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/console"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

const (
	requestTime = 30 * time.Second // for one unary request
	// shutdownTime is how long requests may take to end by themselves. HTTP's
	// shutdown also waits so long for a new connection that never sent one, as
	// browsers and Go's client keep in reserve.
	shutdownTime = 2 * time.Second
)

// Store is the part of the store that requests need; see package store.
type Store interface {
	Do(ctx context.Context, now time.Time, ops []store.Op) []store.Answer
	store.Definitions
	store.History
	store.Insight
	DueJobs(ctx context.Context, share *job.Share, until time.Time, after *job.Job, limit int) ([]*job.Job, error)
	Sessions(ctx context.Context) ([]store.Session, error)
	DrainSession(ctx context.Context, id string, drain bool, a *store.Audit) (store.Session, error)
	Replicas(ctx context.Context) ([]store.Replica, error)
	Find(ctx context.Context, ids []string) ([]*job.Execution, error)
	Ready(ctx context.Context) error
}

// Dispatcher is told of what people change, and asked what only it knows; see
// package dispatch.
type Dispatcher interface {
	JobChanged(j *job.Job)
	// RunNow is the store's RunNow; where an executor has room here, the run is
	// leased to it in the same step.
	RunNow(ctx context.Context, r store.RunNow) (stored *job.Execution, replayed bool, err error)
	CancelRequested(e *job.Execution)
	Progress(executionID string) (dispatch.Progress, bool)
	Settle(ctx context.Context, j *job.Job, now time.Time) (*job.Job, error)
	Ready() error
}

// LeaseStream is an executor's stream as dispatch sees it.
type LeaseStream interface {
	Receive(ctx context.Context, in *dispatch.Inbound) error
	Next(ctx context.Context) (*dispatch.Outbound, error)
	Close()
}

// Config is what the server is made of. All fields but the limits, TLS, PublicURL
// and Console are required.
type Config struct {
	Store      Store
	Dispatcher Dispatcher
	OpenStream func(ctx context.Context, h dispatch.Hello) (LeaseStream, error)
	Templates  *templates.Catalogue
	Guard      *access.Guard

	Name              string        // of this registry, told to executors
	SessionTTL        time.Duration // told to executors
	MaxJobs           int           // 0 for no limit
	ManualRunsPerHour int           // a user; 0 for no limit
	TLS               rpc.TLS       // of both listeners
	PublicURL         string        // where people reach the registry; https makes cookies secure
	Version           string        // of this program
	Console           fs.FS         // the built console; nil or without an index.html for none

	Now func() time.Time
	// Every returns a channel that gets a value at that interval, until stop is called.
	Every func(interval time.Duration) (ticks <-chan time.Time, stop func())
	Log   *zap.Logger
}

// rooms is what every handler may use.
type rooms struct {
	Config
	watches  watches
	stopping context.Context // ends when the server begins to stop
}

// Server serves REST and gRPC.
type Server struct {
	*rooms
	validator protovalidate.Validator
	outside   *grpc.Server // for clients and executors
	inside    *grpc.Server // for the gateway alone
	rest      *http.Server
	health    *health.Server
	unwell    string // what UpdateHealth last said

	console *console.Console
	stop    context.CancelFunc
	readers sync.WaitGroup // of lease streams: they outlive their handlers a little
}

// New returns a server that Serve will run. It fails when TLS files cannot be
// used.
func New(cfg Config) (*Server, error) {
	options, err := rpc.ServerOptions(cfg.TLS)
	if err != nil {
		return nil, err
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("prepare the validation of requests: %w", err)
	}
	pages, err := console.New(cfg.Console)
	if err != nil {
		return nil, err
	}
	s := &Server{rooms: &rooms{Config: cfg, watches: watches{}}, validator: validator, console: pages, health: health.NewServer()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.setHealth(healthv1.HealthCheckResponse_NOT_SERVING) // until somebody looks

	s.outside = s.newGRPC(false, options...)
	s.inside = s.newGRPC(true, grpc.MaxRecvMsgSize(rpc.MaxMessageBytes), grpc.MaxSendMsgSize(rpc.MaxMessageBytes))
	s.rest = &http.Server{
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: zap.NewStdLog(cfg.Log.Named("http")),
	}
	if !cfg.TLS.Plaintext {
		pair, err := tls.LoadX509KeyPair(cfg.TLS.CertFile, cfg.TLS.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls: certificate %s with key %s: %w", cfg.TLS.CertFile, cfg.TLS.KeyFile, err)
		}
		s.rest.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	return s, nil
}

// newGRPC makes a server with all services. A trusted one is reached by the
// gateway only, and believes what it says of the client's address.
func (s *Server) newGRPC(trusted bool, options ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append(options, grpc.UnaryInterceptor(s.unary(trusted)), grpc.StreamInterceptor(s.stream(trusted)))...)
	almanacv1.RegisterJobServiceServer(g, &jobService{rooms: s.rooms})
	almanacv1.RegisterTemplateServiceServer(g, &templateService{rooms: s.rooms})
	almanacv1.RegisterExecutionServiceServer(g, &executionService{rooms: s.rooms})
	almanacv1.RegisterWorkerServiceServer(g, &workerService{rooms: s.rooms})
	almanacv1.RegisterAuthServiceServer(g, &authService{rooms: s.rooms})
	almanacv1.RegisterAuditServiceServer(g, &auditService{rooms: s.rooms})
	almanacv1.RegisterUserServiceServer(g, &userService{rooms: s.rooms})
	almanacv1.RegisterStatisticsServiceServer(g, &statisticsService{rooms: s.rooms})
	almanacv1.RegisterLeaseServiceServer(g, &leaseService{Server: s})
	healthv1.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// Serve answers requests on both listeners until ctx ends or a listener fails,
// then lets running requests finish for some seconds. It owns the listeners, and
// leaves no goroutine behind. A server serves once.
func (s *Server) Serve(ctx context.Context, rest, grpcListener net.Listener) error {
	pipe := bufconn.Listen(1 << 20)
	toInside, err := grpc.NewClient("passthrough:///gateway",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(rpc.MaxMessageBytes), grpc.MaxCallSendMsgSize(rpc.MaxMessageBytes)))
	if err != nil {
		return fmt.Errorf("connect the gateway: %w", err)
	}
	defer toInside.Close()
	if s.rest.Handler, err = s.newREST(ctx, toInside); err != nil {
		return err
	}

	ended := make(chan error, 3)
	go func() { ended <- s.inside.Serve(pipe) }()
	go func() { ended <- s.outside.Serve(grpcListener) }()
	go func() {
		if s.rest.TLSConfig != nil {
			ended <- s.rest.ServeTLS(rest, "", "")
		} else {
			ended <- s.rest.Serve(rest)
		}
	}()
	left := cap(ended)
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-ended:
		left--
	}

	s.stop()
	s.health.Shutdown()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := s.rest.Shutdown(limit); err != nil {
		_ = s.rest.Close()
	}
	for _, g := range []*grpc.Server{s.outside, s.inside} {
		hard := context.AfterFunc(limit, g.Stop)
		g.GracefulStop()
		hard()
	}
	s.readers.Wait()
	for range left {
		if err := <-ended; failed == nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			failed = err
		}
	}
	if failed != nil {
		return fmt.Errorf("serve: %w", failed)
	}
	return nil
}

// UpdateHealth looks whether the registry is ready and tells those who watch
// grpc.health.v1. Its owner, one goroutine, calls it every second or so.
func (s *Server) UpdateHealth(ctx context.Context) {
	reasons, err := s.notReady(ctx)
	now := healthv1.HealthCheckResponse_SERVING
	if len(reasons) > 0 {
		now = healthv1.HealthCheckResponse_NOT_SERVING
	}
	s.setHealth(now)
	if said := strings.Join(reasons, "; "); said != s.unwell {
		if s.unwell = said; said == "" {
			s.Log.Info("ready")
		} else if s.stopping.Err() == nil {
			s.Log.Warn("not ready", zap.String("reasons", said), zap.Error(err))
		}
	}
}

func (s *Server) setHealth(now healthv1.HealthCheckResponse_ServingStatus) {
	for _, name := range []string{"", "JobService", "TemplateService", "ExecutionService", "WorkerService", "AuthService", "UserService", "AuditService", "StatisticsService", "LeaseService"} {
		if name != "" {
			name = "almanac.v1." + name
		}
		s.health.SetServingStatus(name, now)
	}
}

// notReady says what the registry waits for, in words that give nothing away,
// and the errors behind them.
func (s *Server) notReady(ctx context.Context) (reasons []string, err error) {
	if s.stopping.Err() != nil {
		reasons = append(reasons, "the registry is stopping")
	}
	storeErr, dispatchErr := s.Store.Ready(ctx), s.Dispatcher.Ready()
	if storeErr != nil {
		reasons = append(reasons, "the store is not available")
	}
	if dispatchErr != nil {
		reasons = append(reasons, "the dispatcher is not ready")
	}
	return reasons, errors.Join(storeErr, dispatchErr)
}

// caller is who makes a request, and from where.
type caller struct {
	access.Identity
	address string
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// Metadata that the gateway adds. From outside it means nothing.
const (
	metaAddress   = "almanac-client-address"
	metaRequestID = "almanac-request-id"
)

// admit identifies the caller of a method and decides whether it may call.
func (s *Server) admit(ctx context.Context, method string, trusted bool) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c := caller{address: "unknown"}
	if p, ok := peer.FromContext(ctx); ok {
		c.address = host(p.Addr.String())
	}
	if told := md.Get(metaAddress); trusted && len(told) == 1 {
		c.address = told[0]
	}
	authorization := ""
	switch all := md.Get("authorization"); {
	case len(all) == 1:
		authorization = all[0]
	case len(all) > 1:
		return ctx, fail(kindBadToken, "more than one authorization was sent: send one")
	}
	var err error
	c.Identity, err = s.Guard.Check(ctx, method, authorization)
	return context.WithValue(ctx, callerKey{}, c), err
}

// host is an address without its port.
func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

func (s *Server) unary(trusted bool) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
		began := s.Now()
		ctx, cancel := context.WithTimeout(ctx, requestTime)
		defer cancel()
		defer func() {
			if caught := recover(); caught != nil {
				answer, err = nil, s.broken(info.FullMethod, caught)
			}
			err = s.answered(ctx, info.FullMethod, trusted, began, err)
		}()
		if ctx, err = s.admit(ctx, info.FullMethod, trusted); err != nil {
			return nil, err
		}
		if m, ok := req.(proto.Message); ok {
			if size := proto.Size(m); size > 2*maxBody {
				return nil, fail(kindTooLarge, "the request has %d bytes; at most %d are accepted", size, 2*maxBody)
			}
			if err := s.validator.Validate(m); err != nil {
				return nil, err
			}
		}
		return handler(ctx, req)
	}
}

func (s *Server) stream(trusted bool) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		began, ctx := s.Now(), stream.Context()
		defer func() {
			if caught := recover(); caught != nil {
				err = s.broken(info.FullMethod, caught)
			}
			err = s.answered(ctx, info.FullMethod, trusted, began, err)
		}()
		if ctx, err = s.admit(ctx, info.FullMethod, trusted); err != nil {
			return err
		}
		known := &identified{ServerStream: stream, ctx: ctx}
		if !info.IsClientStream { // one request, checked like any other; frames of a lease are checked there
			known.validate = s.validator.Validate
		}
		return handler(srv, known)
	}
}

// identified is a stream whose context knows the caller.
type identified struct {
	grpc.ServerStream
	ctx      context.Context                                                        //nolint:containedctx // the way grpc hands a context to a stream's handler
	validate func(m proto.Message, options ...protovalidate.ValidationOption) error // nil to check nothing
}

// RecvMsg receives a message and checks it.
func (i *identified) RecvMsg(m any) error {
	if err := i.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if request, ok := m.(proto.Message); ok && i.validate != nil {
		return i.validate(request)
	}
	return nil
}

// Context returns the context with the caller.
func (i *identified) Context() context.Context { return i.ctx }

// broken keeps a mistake in one handler from ending the process.
func (s *Server) broken(method string, caught any) error {
	s.Log.Error("a handler panicked", zap.String("method", method), zap.Any("panic", caught), zap.ByteString("stack", debug.Stack()))
	return fail(kindInternal, "an error inside the registry; its log says more")
}

// answered writes the access log and gives an error its outward form.
func (s *Server) answered(ctx context.Context, method string, trusted bool, began time.Time, err error) error {
	who := callerOf(ctx)
	fields := []zap.Field{zap.String("method", method), zap.String("user", who.User), zap.String("address", who.address), zap.Duration("took", s.Now().Sub(began))}
	if id := metadata.ValueFromIncomingContext(ctx, metaRequestID); trusted && len(id) == 1 {
		fields = append(fields, zap.String("request_id", id[0]))
	}
	level := zap.InfoLevel
	if trusted {
		level = zap.DebugLevel // what came by REST is in the log of the REST side
	}
	if err == nil {
		s.Log.Log(level, "access", append(fields, zap.String("code", "OK"))...)
		return nil
	}
	p := explain(err, s.Now())
	fields = append(fields, zap.String("code", p.code.String()), zap.String("reason", p.reason))
	if slices.Contains([]kind{kindInternal, kindUnavailable}, p.kind) {
		s.Log.Error("request failed", append(fields, zap.Error(err))...)
	} else {
		s.Log.Log(level, "access", append(fields, zap.String("error", p.message))...)
	}
	return p.GRPCStatus().Err()
}
