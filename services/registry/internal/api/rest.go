package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/console"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// route is one REST route, as its annotation in the protocol says.
type route struct {
	httpMethod string
	pattern    string // the path, with variables in braces
	rpc        string // full gRPC name
	query      map[string]protoreflect.FieldDescriptor
	body       protoreflect.MessageType // nil when there is none
	masked     bool                     // the request has an update_mask, made from the body's keys
	stream     bool                     // the answer is a line of JSON for each message
}

var variable = regexp.MustCompile(`\{(\w+)\}`)

// routes reads the routes from the protocol.
func routes() ([]route, error) {
	var all []route
	for _, file := range []protoreflect.FileDescriptor{
		almanacv1.File_almanac_v1_job_proto, almanacv1.File_almanac_v1_template_proto,
		almanacv1.File_almanac_v1_execution_proto, almanacv1.File_almanac_v1_worker_proto, almanacv1.File_almanac_v1_access_proto,
		almanacv1.File_almanac_v1_statistics_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for k := range methods.Len() {
				r, err := routeOf(methods.Get(k))
				if err != nil {
					return nil, err
				}
				all = append(all, r)
			}
		}
	}
	return all, nil
}

func routeOf(m protoreflect.MethodDescriptor) (route, error) {
	r := route{rpc: fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()), stream: m.IsStreamingServer()}
	rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		r.httpMethod, r.pattern = http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		r.httpMethod, r.pattern = http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		r.httpMethod, r.pattern = http.MethodPut, p.Put
	case *annotations.HttpRule_Delete:
		r.httpMethod, r.pattern = http.MethodDelete, p.Delete
	default:
		return r, fmt.Errorf("%s has no REST route", r.rpc)
	}
	input := m.Input()
	body := input
	switch rule.Body {
	case "":
		body = nil
	case "*":
	default:
		body = input.Fields().ByName(protoreflect.Name(rule.Body)).Message()
	}
	if body != nil {
		var err error
		if r.body, err = protoregistry.GlobalTypes.FindMessageByName(body.FullName()); err != nil {
			return r, fmt.Errorf("body of %s: %w", r.rpc, err)
		}
	}
	r.masked = input.Fields().ByName("update_mask") != nil
	r.query = map[string]protoreflect.FieldDescriptor{}
	if r.httpMethod == http.MethodGet {
		var inPath []string
		for _, m := range variable.FindAllStringSubmatch(r.pattern, -1) {
			inPath = append(inPath, m[1])
		}
		for i := range input.Fields().Len() {
			if f := input.Fields().Get(i); !slices.Contains(inPath, string(f.Name())) {
				r.query[string(f.Name())] = f
			}
		}
	}
	return r, nil
}

// requestIDForm is what is accepted as a request id from outside.
var requestIDForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

const headerRequestID = "X-Request-Id"

// newREST makes the handler of everything that speaks HTTP.
func (s *Server) newREST(ctx context.Context, inside *grpc.ClientConn) (http.Handler, error) {
	gateway := s.newGateway()
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		almanacv1.RegisterJobServiceHandler, almanacv1.RegisterTemplateServiceHandler, almanacv1.RegisterExecutionServiceHandler,
		almanacv1.RegisterWorkerServiceHandler, almanacv1.RegisterAuthServiceHandler, almanacv1.RegisterAuditServiceHandler,
		almanacv1.RegisterUserServiceHandler, almanacv1.RegisterStatisticsServiceHandler,
	} {
		if err := register(ctx, gateway, inside); err != nil {
			return nil, fmt.Errorf("set up the gateway: %w", err)
		}
	}
	all, err := routes()
	if err != nil {
		return nil, err
	}
	document, err := openAPI()
	if err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	for _, r := range all {
		mux.HandleFunc(r.httpMethod+" "+r.pattern, s.api(r, gateway))
	}
	mux.HandleFunc("GET /healthz", serveText("application/json", []byte(`{"status":"ok"}`+"\n")))
	mux.HandleFunc("GET /readyz", s.serveReadiness)
	mux.HandleFunc("GET /openapi.json", serveText("application/json", document))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		switch methods := allowed(mux, r); {
		case len(methods) > 0:
			list := strings.Join(methods, ", ")
			w.Header().Set("Allow", list)
			s.refuse(w, fail(kindNoMethod, "%s is not possible here: use %s", shorten(r.Method), list))
		case !s.console.Serve(w, r):
			s.refuse(w, fail(kindNoRoute, "there is nothing at %s; /openapi.json lists what there is", shorten(r.URL.Path)))
		}
	})

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := s.Now()
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		if !s.TLS.Plaintext {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		id := r.Header.Get(headerRequestID)
		if !requestIDForm.MatchString(id) {
			id = job.NewID("")
		}
		r.Header.Set(headerRequestID, id)
		h.Set(headerRequestID, id)
		recorded := &recorder{ResponseWriter: w, code: http.StatusOK}
		switch {
		case !utf8.ValidString(r.URL.Path):
			s.refuse(recorded, invalid(kindMalformed, violations{{"", "the path is not valid UTF-8"}}))
		case r.URL.Path != path.Clean("/"+r.URL.Path):
			if console.IsPage(r) { // typed by a person, such as /docs/
				http.Redirect(recorded, r, (&url.URL{Path: path.Clean("/" + r.URL.Path), RawQuery: r.URL.RawQuery}).String(), http.StatusFound)
				break
			}
			s.refuse(recorded, fail(kindNoRoute, "there is nothing at %s; /openapi.json lists what there is", shorten(r.URL.Path)))
		default:
			mux.ServeHTTP(recorded, r)
		}
		s.Log.Info("access", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Int("status", recorded.code),
			zap.String("address", host(r.RemoteAddr)), zap.String("user", recorded.user), zap.String("request_id", id), zap.Duration("took", s.Now().Sub(began)))
	}), nil
}

// allowed lists the methods that there are routes for at the request's path.
func allowed(mux *http.ServeMux, r *http.Request) []string {
	var methods []string
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut} {
		other := *r
		other.Method = method
		if _, pattern := mux.Handler(&other); pattern != "/" {
			methods = append(methods, method)
		}
	}
	return methods
}

// recorder remembers what was answered, for the access log.
type recorder struct {
	http.ResponseWriter
	code int
	user string
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// api prepares a request for the gateway: who may not is refused before the body
// is read, and what the gateway would let pass or complain of unclearly is
// refused here.
func (s *Server) api(rt route, gateway http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := s.identify(rt, w, r)
		if recorded, ok := w.(*recorder); ok {
			recorded.user = id.User
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		forward, err := s.prepare(rt, w, r)
		if err != nil {
			s.refuse(w, err)
			return
		}
		if rt.stream {
			s.serveStream(w, forward, gateway)
			return
		}
		gateway.ServeHTTP(w, forward)
	}
}

// prepare makes the request that the gateway gets.
func (s *Server) prepare(rt route, w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid(kindMalformed, violations{{"", "the query is malformed: " + err.Error()}})
	}
	if err := checkQuery(query, rt.query); err != nil {
		return nil, err
	}
	forward := r.Clone(r.Context())
	forward.Body, forward.ContentLength = http.NoBody, 0
	forward.Header = http.Header{}
	if r.Method == http.MethodHead {
		forward.Method = http.MethodGet
	}
	for _, name := range []string{"Authorization", headerRequestID, "Idempotency-Key", "If-Match"} {
		for _, value := range r.Header.Values(name) {
			if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) || len(value) > 4096 {
				return nil, invalid(kindInvalid, violations{{name, "must be short and of printable ASCII characters"}})
			}
			forward.Header.Add(name, value)
		}
	}
	if rt.body == nil {
		return forward, nil
	}

	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fail(kindTooLarge, "the body is larger than %d bytes", maxBody)
	case err != nil:
		return nil, invalid(kindMalformed, violations{{"", "the body could not be read: " + err.Error()}})
	}
	if len(body) > 0 { // of an empty one, such as that of curl -d "", the type says nothing
		if err := checkContentType(r.Header.Get("Content-Type")); err != nil {
			return nil, err
		}
	}
	parsed, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	if err := parsed.decode(rt.body.New().Interface()); err != nil {
		return nil, err
	}
	if rt.masked {
		forward.URL.RawQuery = ""
		if mask := parsed.mask(rt.body.Descriptor()); len(mask) > 0 {
			forward.URL.RawQuery = url.Values{"update_mask": {strings.Join(mask, ",")}}.Encode()
		}
	}
	forward.Header.Set("Content-Type", "application/json")
	forward.Body, forward.ContentLength = io.NopCloser(bytes.NewReader(parsed.text)), int64(len(parsed.text))
	return forward, nil
}

func checkContentType(header string) error {
	kind, params, err := mime.ParseMediaType(header)
	if err != nil || kind != "application/json" {
		return fail(kindContentType, "send the body as JSON, with the header \"Content-Type: application/json\"")
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return fail(kindContentType, "send the body in UTF-8, not in %s", charset)
	}
	return nil
}

// newGateway makes the translation between REST and gRPC.
func (s *Server) newGateway() *runtime.ServeMux {
	return runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{MarshalOptions: asJSON, UnmarshalOptions: protojson.UnmarshalOptions{}}),
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			switch name {
			case "Idempotency-Key":
				return headerIdempotencyKey, true
			case "If-Match":
				return headerIfMatch, true
			case headerRequestID:
				return metaRequestID, true
			}
			return "", false
		}),
		runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
			return metadata.Pairs(metaAddress, host(r.RemoteAddr))
		}),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithForwardResponseOption(s.decorate),
		runtime.WithStreamErrorHandler(streamError),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			s.write(w, status.Convert(err))
		}),
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, _ int) {
			s.refuse(w, fail(kindNoRoute, "there is nothing at %s; /openapi.json lists what there is", shorten(r.URL.Path)))
		}),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
	)
}

// decorate adds what REST says in headers and status: 201 and 202, ETag,
// Location, the session's cookie.
func (s *Server) decorate(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
	tag := func(j *almanacv1.Job) { w.Header().Set("ETag", strconv.Quote(strconv.Itoa(int(j.GetVersion())))) }
	switch m := m.(type) {
	case *almanacv1.StartSessionResponse:
		md, _ := runtime.ServerMetadataFromContext(ctx)
		token := md.HeaderMD.Get(metaSession)
		if len(token) != 1 {
			return errors.New("the session has no token")
		}
		http.SetCookie(w, s.cookie(token[0], m.ExpiresAt.AsTime().Sub(s.Now())))
	case *almanacv1.EndSessionResponse:
		http.SetCookie(w, s.cookie("", 0))
	case *almanacv1.CreateTokenResponse, *almanacv1.AddUserResponse:
		w.WriteHeader(http.StatusCreated)
	case *almanacv1.CreateJobResponse:
		tag(m.Job)
		w.Header().Set("Location", "/api/admin/scheduler-jobs/"+m.GetJob().GetId())
		w.WriteHeader(http.StatusCreated)
	case *almanacv1.GetJobResponse:
		tag(m.Job)
	case *almanacv1.UpdateJobResponse:
		tag(m.Job)
	case *almanacv1.RunJobResponse:
		w.Header().Set("Location", "/api/admin/job-executions/"+m.ExecutionId)
		w.WriteHeader(http.StatusAccepted)
	case *almanacv1.TryJobResponse:
		w.Header().Set("Location", "/api/admin/job-executions/"+m.ExecutionId)
		w.WriteHeader(http.StatusAccepted)
	}
	return nil
}

// refuse answers with an error that arose before the gateway.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	p := explain(err, s.Now())
	if p.kind == kindInternal || p.kind == kindUnavailable {
		s.Log.Error("request failed", zap.Error(err))
	}
	s.write(w, p.GRPCStatus())
}

// write answers with a google.rpc.Status.
func (s *Server) write(w http.ResponseWriter, st *status.Status) {
	code, reason := 0, ""
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			code, reason = httpStatus[d.Reason], d.Reason
		case *errdetails.RetryInfo:
			wait := d.RetryDelay.AsDuration().Seconds()
			w.Header().Set("Retry-After", strconv.Itoa(max(1, int(wait+0.999))))
		}
	}
	if code == 0 { // an error of the transport or of a library
		code = runtime.HTTPStatusFromCode(st.Code())
	}
	if st.Code() == codes.Unauthenticated && reason != kindBadLogin.reason {
		challenge := `Bearer realm="almanac"`
		if reason == kindBadToken.reason {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(st.Proto())
	if err != nil {
		s.Log.Error("an error could not be described", zap.Error(err))
		body, _ = json.Marshal(map[string]any{"code": st.Code(), "message": st.Message()})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body) //nolint:gosec // G705: JSON, declared as such and never sniffed
}
