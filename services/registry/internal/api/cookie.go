package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/status"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
)

// crossOrigin tells requests that a browser makes for another site's page.
var crossOrigin = http.NewCrossOriginProtection()

// cookieName is what the session's cookie is called. The prefix makes browsers
// take it from this very host only, and by TLS only.
func (s *Server) cookieName() string {
	if s.secure() {
		return "__Host-almanac_session"
	}
	return "almanac_session"
}

// secure tells whether browsers reach the registry by TLS, its own or a proxy's.
func (s *Server) secure() bool {
	return !s.TLS.Plaintext || strings.HasPrefix(s.PublicURL, "https://")
}

// cookie holds a session's token for a time; 0 takes it back.
func (s *Server) cookie(token string, lifetime time.Duration) *http.Cookie {
	c := &http.Cookie{ //nolint:gosec // G124: Secure is set wherever browsers come by TLS; a registry without it is for this machine
		Name: s.cookieName(), Value: token, Path: "/", MaxAge: int(lifetime.Seconds()),
		HttpOnly: true, Secure: s.secure(), SameSite: http.SameSiteStrictMode,
	}
	if c.MaxAge <= 0 {
		c.MaxAge = -1
	}
	return c
}

// identify finds out who makes a request, and whether they may. Authorization goes
// before the cookie, which from here on is an Authorization too.
func (s *Server) identify(rt route, w http.ResponseWriter, r *http.Request) (access.Identity, error) {
	values := r.Header.Values("Authorization")
	if len(values) > 1 {
		return access.Identity{}, fail(kindBadToken, "more than one authorization was sent: send one")
	}
	// Starting a session gives a cookie, so no other site may start one either.
	if rt.rpc == almanacv1.AuthService_StartSession_FullMethodName {
		if err := sameSite(r); err != nil {
			return access.Identity{}, err
		}
	}
	cookie, err := r.Cookie(s.cookieName())
	if err != nil || len(values) == 1 || access.Public(rt.rpc) {
		return s.Guard.Check(r.Context(), rt.rpc, r.Header.Get("Authorization"))
	}
	if err := sameSite(r); err != nil {
		return access.Identity{}, err
	}
	id, err := s.Guard.CheckSession(r.Context(), rt.rpc, cookie.Value)
	if errors.Is(err, access.ErrBadToken) {
		http.SetCookie(w, s.cookie("", 0))
	}
	r.Header.Set("Authorization", "Bearer "+cookie.Value)
	return id, err
}

// sameSite refuses what a browser sends for another site's page, unless it only
// reads: the browser adds the cookie to it unasked.
func sameSite(r *http.Request) error {
	if err := crossOrigin.Check(r); err != nil {
		return fail(kindCrossSite, "a page of another site asked for this: use the console of this registry, or a token in the header Authorization")
	}
	return nil
}

const contentTypeLines = "application/x-ndjson"

// serveStream serves a stream for as long as it lasts.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request, gateway http.Handler) {
	control := http.NewResponseController(w)
	for _, unlimited := range []func(time.Time) error{control.SetReadDeadline, control.SetWriteDeadline} {
		if err := unlimited(time.Time{}); err != nil {
			s.refuse(w, err)
			return
		}
	}
	lines := &lineWriter{ResponseWriter: w}
	gateway.ServeHTTP(lines, r.WithContext(context.WithValue(r.Context(), lineWriterKey{}, lines)))
	if lines.refused {
		w.Header().Del("Transfer-Encoding") // the gateway expected lines
		s.write(w, lines.failure)
	}
}

type lineWriterKey struct{}

// lineWriter lets a stream's lines pass. A failure before the first of them is
// kept, to be answered as any other error is.
type lineWriter struct {
	http.ResponseWriter
	failure *status.Status
	refused bool
}

// WriteHeader implements http.ResponseWriter. The gateway calls it for failures
// only.
func (l *lineWriter) WriteHeader(code int) {
	l.refused = code >= http.StatusBadRequest
	if !l.refused {
		l.ResponseWriter.WriteHeader(code)
	}
}

// Write implements http.ResponseWriter.
func (l *lineWriter) Write(line []byte) (int, error) {
	if l.refused {
		return len(line), nil
	}
	l.Header().Set("Content-Type", contentTypeLines)
	return l.ResponseWriter.Write(line)
}

// Unwrap serves http.ResponseController.
func (l *lineWriter) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// streamError is called with what ended a stream.
func streamError(ctx context.Context, err error) *status.Status {
	st := runtime.DefaultStreamErrorHandler(ctx, err)
	if lines, ok := ctx.Value(lineWriterKey{}).(*lineWriter); ok {
		lines.failure = st
	}
	return st
}
