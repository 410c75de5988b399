package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

// Bounds of one frame to an executor: far below what it accepts, so that it can
// begin with the first while the second is on its way.
const (
	frameMost  = 256     // assignments
	frameBytes = 1 << 20 // of their parameters
)

type leaseService struct {
	almanacv1.UnimplementedLeaseServiceServer
	*Server
}

type leaseStream = grpc.BidiStreamingServer[almanacv1.LeaseRequest, almanacv1.LeaseResponse]

// Lease carries one session's traffic. The handler itself sends; a second
// goroutine receives, because a receive only ends when the handler returns. The
// server waits for that goroutine.
func (s *leaseService) Lease(stream leaseStream) error {
	first, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	hello := first.GetHello()
	if err := checkHello(hello); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(dispatch.ErrStopped) })()

	accepted, refused, err := s.Templates.Announce(ctx, hello.Session, announcements(hello.Templates))
	if err != nil {
		return err
	}
	defer s.Templates.Withdraw(hello.Session)
	leases, err := s.OpenStream(ctx, dispatch.Hello{
		Session: hello.Session, Stream: hello.Stream, Host: hello.Host, Version: hello.Version, Labels: hello.Labels,
		Slots: int(hello.Slots), Templates: accepted, Held: holdings(hello.Held), Holdings: allHoldings(hello.Holdings),
	})
	if err != nil {
		return err
	}
	defer leases.Close()
	log := s.Log.With(zap.String("session", hello.Session), zap.String("stream", hello.Stream), zap.String("host", hello.Host))
	log.Info("executor connected", zap.Strings("templates", accepted), zap.String("version", hello.Version))
	welcome := &almanacv1.Welcome{Registry: s.Name, SessionTtlMilliseconds: int32(s.SessionTTL / time.Millisecond)}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		welcome.Refused = append(welcome.Refused, &almanacv1.RefusedTemplate{Type: name, Reason: refused[name]})
	}
	if err := stream.Send(&almanacv1.LeaseResponse{Welcome: welcome}); err != nil {
		return err
	}
	first.Hello = nil
	s.readers.Go(func() { cancel(receive(ctx, stream, leases, first)) })
	err = send(ctx, stream, leases)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // what ended the stream, rather than that it was ended
	}
	log.Info("executor disconnected", zap.NamedError("reason", err))
	return ended(err)
}

// ended turns the end of a stream into its answer: one that the executor closed
// ends well.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func checkHello(h *almanacv1.Hello) error {
	if h == nil {
		return invalid(kindInvalid, violations{{"hello", "is required in the first frame of a stream"}})
	}
	var bad violations
	for _, id := range []struct{ field, value string }{{"hello.session", h.Session}, {"hello.stream", h.Stream}} {
		if id.value == "" || len(id.value) > 100 {
			bad.add(id.field, "must have 1 to 100 characters")
		}
	}
	if _, err := strconv.ParseInt(h.Stream, 10, 64); err != nil {
		bad.add("hello.stream", "must be the stream's ordinal within the session, in decimal")
	}
	if len(h.Host) > 255 {
		bad.add("hello.host", "must have at most 255 characters")
	}
	if len(h.Version) > 255 {
		bad.add("hello.version", "must have at most 255 characters")
	}
	if len(h.Labels) > 64 {
		bad.add("hello.labels", "must be at most 64")
	}
	for key, value := range h.Labels {
		if len(key) > 63 || len(value) > 63 {
			bad.add("hello.labels", "must have keys and values of at most 63 characters")
			break
		}
	}
	if h.Slots < 0 {
		bad.add("hello.slots", "must not be negative")
	}
	return bad.err()
}

// receive hands frames to dispatch until one side is gone.
func receive(ctx context.Context, stream leaseStream, leases LeaseStream, frame *almanacv1.LeaseRequest) error {
	for {
		if frame.Hello != nil {
			return invalid(kindInvalid, violations{{"hello", "belongs into the first frame only"}})
		}
		if err := leases.Receive(ctx, inbound(frame)); err != nil {
			return err
		}
		var err error
		if frame, err = stream.Recv(); err != nil {
			return err
		}
	}
}

// send takes from dispatch what has gathered until the stream ends.
func send(ctx context.Context, stream leaseStream, leases LeaseStream) error {
	for {
		out, err := leases.Next(ctx)
		if err != nil {
			return err
		}
		for _, frame := range outbound(out) {
			if err := stream.Send(frame); err != nil {
				return err
			}
		}
	}
}

func announcements(in []*almanacv1.TemplateAnnouncement) []templates.Announcement {
	out := make([]templates.Announcement, len(in))
	for i, a := range in {
		out[i] = templates.Announcement{Template: job.Template{
			Type: a.Type, Version: int(a.Version), Name: a.Name, Description: a.Description, Category: a.Category, Icon: a.Icon,
			Schema: a.SchemaJson, EstimatedDuration: a.EstimatedDuration, ResourceUsage: a.ResourceUsage, RiskLevel: a.RiskLevel,
			Idempotent: a.Idempotent, Destructive: a.Destructive, MaxConcurrency: int(a.MaxConcurrency),
		}, Restrictions: map[string][]string{}}
		for _, r := range a.Restrictions {
			out[i].Restrictions[r.Parameter] = append(out[i].Restrictions[r.Parameter], r.Values...)
		}
	}
	return out
}

func holdings(in []*almanacv1.Lease) []dispatch.Holding {
	out := make([]dispatch.Holding, len(in))
	for i, l := range in {
		out[i] = dispatch.Holding{ID: l.ExecutionId, Token: l.Token}
	}
	return out
}

func allHoldings(in *almanacv1.Holdings) dispatch.Holdings {
	return dispatch.Holdings{OpenStreams: in.GetOpenStreams(), LastStream: in.GetLastStream(), Elsewhere: holdings(in.GetElsewhere())}
}

func inbound(in *almanacv1.LeaseRequest) *dispatch.Inbound {
	out := &dispatch.Inbound{Credits: int(in.Credits), Draining: in.Draining}
	for _, l := range in.Logs {
		a := &store.AppendLog{ID: l.ExecutionId, Token: l.Token, Number: int(l.Number), Lines: make([]job.LogLine, len(l.Lines))}
		for i, line := range l.Lines {
			a.Lines[i] = job.LogLine{At: instant(line.At), Level: line.Level, Message: line.Message}
		}
		out.Logs = append(out.Logs, a)
	}
	for _, p := range in.Progress {
		out.Progress = append(out.Progress, dispatch.Progress{
			Holding: dispatch.Holding{ID: p.ExecutionId, Token: p.Token}, Done: p.Done, Total: p.Total, Message: p.Message,
		})
	}
	if len(in.Started) > 0 {
		out.Started = make([]dispatch.Started, len(in.Started))
		for i, s := range in.Started {
			out.Started[i] = dispatch.Started{Holding: dispatch.Holding{ID: s.ExecutionId, Token: s.Token}, At: instant(s.At), Isolation: s.Isolation}
		}
	}
	if len(in.Results) > 0 {
		out.Results = make([]dispatch.Result, len(in.Results))
		for i, r := range in.Results {
			out.Results[i] = dispatch.Result{Holding: dispatch.Holding{ID: r.ExecutionId, Token: r.Token}, Outcome: outcome(r)}
		}
	}
	if len(in.HandedBack) > 0 {
		out.HandedBack = holdings(in.HandedBack)
	}
	if in.Heartbeat != nil {
		out.Heartbeat = &dispatch.Heartbeat{
			LastNumber: in.Heartbeat.LastNumber, Held: holdings(in.Heartbeat.Held), Holdings: allHoldings(in.Heartbeat.Holdings),
			Running: int(in.Heartbeat.Running), Stopping: in.Heartbeat.Stopping, ReportOnly: in.Heartbeat.ReportOnly,
		}
	}
	return out
}

// outcome reads a result. One that cannot be understood counts as a crash: nobody
// can tell how much of the run happened.
func outcome(r *almanacv1.RunResult) job.Outcome {
	o := job.Outcome{
		Status: job.Status(r.Status), StartedAt: instant(r.StartedAt), CompletedAt: instant(r.CompletedAt), Result: r.ResultJson,
		Error: r.Error, ErrorCode: r.ErrorCode, Retryable: r.Retryable, Isolation: r.Isolation,
	}
	switch o.Status {
	case job.Success, job.Failed, job.TimedOut, job.Cancelled:
	default:
		if r.Status != "crashed" {
			o.Error = "the executor reported an end that is not known here: " + r.Status
		}
		o.Status, o.Crashed = job.Failed, true
		if o.ErrorCode == "" {
			o.ErrorCode = job.CodeCrashed
		}
	}
	if len(o.Result) == 0 {
		o.Result = nil
	} else if !bytes.HasPrefix(o.Result, []byte("{")) || !json.Valid(o.Result) {
		o.Result = nil // a record must stay readable
	}
	return o
}

func leases(in []dispatch.Holding) []*almanacv1.Lease {
	if len(in) == 0 {
		return nil
	}
	all := make([]almanacv1.Lease, len(in)) // one allocation for all
	out := make([]*almanacv1.Lease, len(in))
	for i, h := range in {
		all[i].ExecutionId, all[i].Token = h.ID, h.Token
		out[i] = &all[i]
	}
	return out
}

// outbound makes frames: everything in the first, and of the assignments as many
// as it bears.
func outbound(out *dispatch.Outbound) []*almanacv1.LeaseResponse {
	frame := &almanacv1.LeaseResponse{
		Acknowledged: leases(out.Acknowledged), Cancel: leases(out.Cancel), Stale: leases(out.Stale), Beat: out.Beat,
	}
	for _, g := range out.Go {
		frame.Go = append(frame.Go, &almanacv1.Go{ExecutionId: g.ID, Token: g.Token})
	}
	frames := []*almanacv1.LeaseResponse{frame}
	size := 0
	for i := range out.Assignments {
		a := &out.Assignments[i]
		more := len(a.Parameters) + len(a.Previous)
		if len(frame.Assignments) == frameMost || size > 0 && size+more > frameBytes {
			frame, size = &almanacv1.LeaseResponse{}, 0
			frames = append(frames, frame)
		}
		size += more
		frame.Assignments = append(frame.Assignments, assignment(a))
	}
	return frames
}

func assignment(a *dispatch.Assignment) *almanacv1.Assignment {
	return &almanacv1.Assignment{
		Number: a.Number, ExecutionId: a.ID, Token: a.Token, JobId: a.JobID, JobName: a.JobName, Organisation: a.Organisation,
		TemplateType: a.TemplateType, TriggeredBy: string(a.Trigger), Attempt: int32(a.Attempt),
		ScheduledFor: timestamppb.New(a.ScheduledFor), Timezone: a.Zone, ParametersJson: a.Parameters,
		PreviousResultJson: a.Previous, TimeoutSeconds: int32(a.Timeout / time.Second), AwaitGo: a.AwaitGo,
	}
}
