package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// pipe is a stream of dispatch that a test feeds and reads.
type pipe struct {
	hello  dispatch.Hello
	in     chan *dispatch.Inbound
	out    chan *dispatch.Outbound
	over   chan error // sent into by the test to end the stream
	closed chan struct{}
}

func newPipe() *pipe {
	return &pipe{in: make(chan *dispatch.Inbound), out: make(chan *dispatch.Outbound), over: make(chan error, 1), closed: make(chan struct{})}
}

func (p *pipe) Receive(ctx context.Context, in *dispatch.Inbound) error {
	select {
	case p.in <- in:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipe) Next(ctx context.Context) (*dispatch.Outbound, error) {
	select {
	case out := <-p.out:
		return out, nil
	case err := <-p.over:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipe) Close() { close(p.closed) }

// lease opens a stream as an executor and says hello.
func lease(t *testing.T, r *rig, hello *almanacv1.LeaseRequest) grpc.BidiStreamingClient[almanacv1.LeaseRequest, almanacv1.LeaseResponse] {
	t.Helper()
	stream, err := almanacv1.NewLeaseServiceClient(r.dial(executorSecret)).Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(hello); err != nil {
		t.Fatal(err)
	}
	return stream
}

func leaseRig(t *testing.T) (*rig, *pipe) {
	p := newPipe()
	r := newRig(t, func(c *Config) {
		c.OpenStream = func(_ context.Context, h dispatch.Hello) (LeaseStream, error) { p.hello = h; return p, nil }
	})
	return r, p
}

func announcement(templateType string) *almanacv1.TemplateAnnouncement {
	return &almanacv1.TemplateAnnouncement{
		Type: templateType, Version: 1, Name: "N", Description: "D", Category: "c", Icon: "i", SchemaJson: []byte(`{"type": "object", "properties": {"where": {"type": "string"}}}`),
		EstimatedDuration: "1 s", ResourceUsage: "low", RiskLevel: "low", Idempotent: true,
		Restrictions: []*almanacv1.Restriction{{Parameter: "where", Values: []string{"here"}}},
	}
}

func TestLeaseStream(t *testing.T) {
	r, p := leaseRig(t)
	stream := lease(t, r, &almanacv1.LeaseRequest{
		Hello: &almanacv1.Hello{
			Session: "s", Stream: "3", Host: "server-01", Version: "v1", Slots: 4, Labels: map[string]string{"zone": "a"},
			Holdings:  &almanacv1.Holdings{OpenStreams: []string{"3"}, LastStream: 3, Elsewhere: []*almanacv1.Lease{{ExecutionId: "o", Token: 8}}},
			Templates: []*almanacv1.TemplateAnnouncement{announcement("noop"), announcement("Bad Name")},
			Held:      []*almanacv1.Lease{{ExecutionId: "e", Token: 3}},
		},
		Credits: 7,
	})
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	w := first.Welcome
	if w.GetRegistry() != "registry-1" || w.GetSessionTtlMilliseconds() != 5000 || len(w.Refused) != 1 || w.Refused[0].Type != "Bad Name" || !strings.Contains(w.Refused[0].Reason, "Type") {
		t.Errorf("welcome %v", w)
	}
	want := dispatch.Hello{
		Session: "s", Stream: "3", Host: "server-01", Version: "v1", Slots: 4, Labels: map[string]string{"zone": "a"}, Templates: []string{"noop"},
		Held:     []dispatch.Holding{{ID: "e", Token: 3}},
		Holdings: dispatch.Holdings{OpenStreams: []string{"3"}, LastStream: 3, Elsewhere: []dispatch.Holding{{ID: "o", Token: 8}}},
	}
	if !reflect.DeepEqual(p.hello, want) {
		t.Errorf("hello %+v", p.hello)
	}
	if in := <-p.in; in.Credits != 7 {
		t.Errorf("the first frame: %+v", in)
	}
	if e, ok := r.templates.Lookup("noop"); !ok || !e.Available {
		t.Error("the template is not available")
	}

	at := timestamppb.New(began)
	if err := stream.Send(&almanacv1.LeaseRequest{
		Logs:     []*almanacv1.LogChunk{{ExecutionId: "e", Token: 1, Number: 2, Lines: []*almanacv1.LogEntry{{At: at, Level: "INFO", Message: "m"}}}},
		Progress: []*almanacv1.RunProgress{{ExecutionId: "e", Token: 1, Done: 3, Total: 4, Message: "p"}},
		Started:  []*almanacv1.Started{{ExecutionId: "e", Token: 1, At: at, Isolation: []string{"process"}}},
		Results: []*almanacv1.RunResult{
			{ExecutionId: "e", Token: 1, Status: "success", StartedAt: at, CompletedAt: at, ResultJson: []byte(`{"message": "m"}`), Isolation: []string{"process"}},
			{ExecutionId: "f", Token: 2, Status: "failed", Error: "x", ErrorCode: "connection", Retryable: true, ResultJson: []byte("[1]")},
			{ExecutionId: "g", Token: 3, Status: "crashed", Error: "signal: killed", ResultJson: []byte("{")},
			{ExecutionId: "h", Token: 4, Status: "vanished", ErrorCode: "odd"},
		},
		HandedBack: []*almanacv1.Lease{{ExecutionId: "i", Token: 5}},
		Heartbeat: &almanacv1.Heartbeat{
			LastNumber: 9, Held: []*almanacv1.Lease{{ExecutionId: "j", Token: 6}}, Running: 2, Stopping: true, ReportOnly: true,
			Holdings: &almanacv1.Holdings{OpenStreams: []string{"3"}, LastStream: 3, Elsewhere: []*almanacv1.Lease{{ExecutionId: "o", Token: 8}}},
		},
		Draining: true,
	}); err != nil {
		t.Fatal(err)
	}
	hold := func(id string, token int64) dispatch.Holding { return dispatch.Holding{ID: id, Token: token} }
	wantIn := &dispatch.Inbound{
		Logs:     []*store.AppendLog{{ID: "e", Token: 1, Number: 2, Lines: []job.LogLine{{At: began, Level: "INFO", Message: "m"}}}},
		Progress: []dispatch.Progress{{Holding: hold("e", 1), Done: 3, Total: 4, Message: "p"}},
		Started:  []dispatch.Started{{Holding: hold("e", 1), At: began, Isolation: []string{"process"}}},
		Results: []dispatch.Result{
			{Holding: hold("e", 1), Outcome: job.Outcome{Status: job.Success, StartedAt: began, CompletedAt: began, Result: []byte(`{"message": "m"}`), Isolation: []string{"process"}}},
			{Holding: hold("f", 2), Outcome: job.Outcome{Status: job.Failed, Error: "x", ErrorCode: "connection", Retryable: true}},
			{Holding: hold("g", 3), Outcome: job.Outcome{Status: job.Failed, Crashed: true, Error: "signal: killed", ErrorCode: job.CodeCrashed}},
			{Holding: hold("h", 4), Outcome: job.Outcome{Status: job.Failed, Crashed: true, Error: "the executor reported an end that is not known here: vanished", ErrorCode: "odd"}},
		},
		HandedBack: []dispatch.Holding{hold("i", 5)},
		Heartbeat: &dispatch.Heartbeat{
			LastNumber: 9, Held: []dispatch.Holding{hold("j", 6)}, Running: 2, Stopping: true, ReportOnly: true,
			Holdings: dispatch.Holdings{OpenStreams: []string{"3"}, LastStream: 3, Elsewhere: []dispatch.Holding{hold("o", 8)}},
		},
		Draining: true,
	}
	if in := <-p.in; !reflect.DeepEqual(in, wantIn) {
		t.Errorf("inbound\n%+v\nwant\n%+v", in, wantIn)
	}

	out := &dispatch.Outbound{
		Go: []dispatch.Holding{hold("e", 1)}, Acknowledged: []dispatch.Holding{hold("f", 2)}, Cancel: []dispatch.Holding{hold("g", 3)},
		Stale: []dispatch.Holding{hold("h", 4)}, Beat: true,
	}
	for i := range frameMost + 1 {
		out.Assignments = append(out.Assignments, dispatch.Assignment{
			Number: int64(i), ID: fmt.Sprint("exec_", i), Token: 1, JobID: "job_a", JobName: "a", Organisation: "default", TemplateType: "noop",
			Trigger: job.TriggerScheduler, Attempt: 2, ScheduledFor: began, Zone: "UTC", Parameters: []byte(`{}`), Previous: []byte(`{"message":"m"}`), Timeout: time.Hour, AwaitGo: true,
		})
	}
	p.out <- out
	frame, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	lone := func(id string, token int64) []*almanacv1.Lease {
		return []*almanacv1.Lease{{ExecutionId: id, Token: token}}
	}
	wantFrame := &almanacv1.LeaseResponse{
		Assignments: frame.Assignments, Go: []*almanacv1.Go{{ExecutionId: "e", Token: 1}}, Acknowledged: lone("f", 2), Cancel: lone("g", 3), Stale: lone("h", 4), Beat: true,
	}
	if !proto.Equal(frame, wantFrame) || len(frame.Assignments) != frameMost {
		t.Errorf("frame with %d assignments: %v", len(frame.Assignments), frame)
	}
	second, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	wantLast := &almanacv1.LeaseResponse{Assignments: []*almanacv1.Assignment{{
		Number: frameMost, ExecutionId: fmt.Sprint("exec_", frameMost), Token: 1, JobId: "job_a", JobName: "a", Organisation: "default", TemplateType: "noop",
		TriggeredBy: "scheduler", Attempt: 2, ScheduledFor: at, Timezone: "UTC", ParametersJson: []byte(`{}`), TimeoutSeconds: 3600, AwaitGo: true,
		PreviousResultJson: []byte(`{"message":"m"}`),
	}}}
	if !proto.Equal(second, wantLast) {
		t.Errorf("second frame %v", second)
	}

	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the executor closed: %v", err)
	}
	<-p.closed
	if err := r.stop(); err != nil { // its handlers have returned after it
		t.Error(err)
	}
	if e, _ := r.templates.Lookup("noop"); e.Available {
		t.Error("the template is still available")
	}
}

func TestLeaseStreamEnds(t *testing.T) {
	hello := &almanacv1.LeaseRequest{Hello: &almanacv1.Hello{Session: "s", Stream: "1"}}
	t.Run("session ended", func(t *testing.T) {
		r, p := leaseRig(t)
		stream := lease(t, r, hello)
		p.over <- dispatch.ErrSessionEnded
		if err := drain(stream); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%v", err)
		}
		<-p.closed
	})
	t.Run("registry stops", func(t *testing.T) {
		r, p := leaseRig(t)
		stream := lease(t, r, hello)
		if _, err := stream.Recv(); err != nil { // the stream stands
			t.Fatal(err)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if err := drain(stream); status.Code(err) != codes.Unavailable {
			t.Errorf("%v", err)
		}
		<-p.closed
	})
	t.Run("a second hello", func(t *testing.T) {
		r, p := leaseRig(t)
		stream := lease(t, r, hello)
		<-p.in
		if err := stream.Send(hello); err != nil {
			t.Fatal(err)
		}
		if err := drain(stream); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v", err)
		}
	})
	t.Run("not opened", func(t *testing.T) {
		r := newRig(t)
		if err := drain(lease(t, r, hello)); status.Code(err) != codes.Unavailable {
			t.Errorf("%v", err)
		}
	})
	for name, first := range map[string]*almanacv1.LeaseRequest{
		"no hello":     {Credits: 1},
		"no session":   {Hello: &almanacv1.Hello{Stream: "1"}},
		"a long one":   {Hello: &almanacv1.Hello{Session: strings.Repeat("x", 101), Stream: "1"}},
		"a long host":  {Hello: &almanacv1.Hello{Session: "s", Stream: "1", Host: strings.Repeat("x", 300)}},
		"no ordinal":   {Hello: &almanacv1.Hello{Session: "s", Stream: "st"}},
		"many slots":   {Hello: &almanacv1.Hello{Session: "s", Stream: "1", Slots: -1}},
		"a long label": {Hello: &almanacv1.Hello{Session: "s", Stream: "1", Labels: map[string]string{"k": strings.Repeat("x", 64)}}},
		"a long build": {Hello: &almanacv1.Hello{Session: "s", Stream: "1", Version: strings.Repeat("x", 300)}},
		"nothing said": {},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := leaseRig(t)
			if err := drain(lease(t, r, first)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "hello") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("with a user's token", func(t *testing.T) {
		r, _ := leaseRig(t)
		stream, err := almanacv1.NewLeaseServiceClient(r.dial(r.tokens[access.SuperAdmin])).Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := drain(stream); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v", err)
		}
	})
}

// drain reads until the stream ends and returns why.
func drain(stream grpc.BidiStreamingClient[almanacv1.LeaseRequest, almanacv1.LeaseResponse]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

func TestFramesAreBounded(t *testing.T) {
	out := &dispatch.Outbound{Beat: true}
	for range 5 {
		out.Assignments = append(out.Assignments, dispatch.Assignment{Parameters: make([]byte, frameBytes/2+1)})
	}
	frames := outbound(out)
	if len(frames) != 5 || !frames[0].Beat || frames[1].Beat {
		t.Errorf("%d frames", len(frames))
	}
}

func TestHealthAndReflection(t *testing.T) {
	r := newRig(t)
	health := healthv1.NewHealthClient(r.dial(""))
	check := func(service string) healthv1.HealthCheckResponse_ServingStatus {
		t.Helper()
		h, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return h.Status
	}
	if got := check(""); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("before anybody looked: %s", got)
	}
	r.server.UpdateHealth(t.Context())
	if a, b := check(""), check("almanac.v1.JobService"); a != healthv1.HealthCheckResponse_SERVING || a != b {
		t.Errorf("ready: %s, %s", a, b)
	}
	r.dispatcher.set(func(d *dispatcher) { d.unready = errors.New("not now") })
	r.server.UpdateHealth(t.Context())
	if got := check(""); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("not ready: %s", got)
	}

	for token, want := range map[string]codes.Code{
		r.tokens[access.User]: codes.OK, "": codes.Unauthenticated, executorSecret: codes.PermissionDenied,
	} {
		stream, err := reflectionv1.NewServerReflectionClient(r.dial(token)).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != want {
			t.Errorf("reflection with %q: %v", token, err)
		}
		_ = stream.CloseSend()
	}
}

// certificate makes a certificate for this machine and returns its files.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: bytes}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return cert, key, pool
}

func TestTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	r := newRig(t, func(c *Config) { c.TLS = rpc.TLS{CertFile: cert, KeyFile: key} })
	config := &tls.Config{RootCAs: pool}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(r.url, "http:", "https:", 1)+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("REST: %s %v", res.Status, res.Header)
	}
	conn, err := grpc.NewClient(r.grpcAddr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	if _, err := New(Config{TLS: rpc.TLS{CertFile: "/nowhere", KeyFile: key}}); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("a missing certificate: %v", err)
	}
}

// A listener that fails ends the server, with the error.
func TestListenerFails(t *testing.T) {
	r := newRig(t)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	s, err := New(r.server.Config)
	if err != nil {
		t.Fatal(err)
	}
	rest, broken := listen(t), listen(t)
	broken.Close()
	if err := s.Serve(t.Context(), rest, broken); err == nil || !strings.Contains(err.Error(), "serve") {
		t.Errorf("Serve: %v", err)
	}
}
