package builtin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/egress"
)

// Headers that every request of ours has, or has when it is signed.
const (
	idempotencyHeader = "Idempotency-Key"     // the execution's id: the same for all attempts
	timestampHeader   = "X-Almanac-Timestamp" // when it was signed, in seconds since 1970
	signatureHeader   = "X-Almanac-Signature"
)

const (
	// What an HTTP exchange may take beside the time given for it.
	handshakeTime   = 10 * time.Second
	maxHeaderBytes  = 64 << 10
	maxAnswerBytes  = 64 << 10
	maxAnswerHeader = 1024 // characters of one header that are kept
	maxQuoted       = 500  // characters of an answer in an error

	// Within one attempt only what was surely not processed is sent again, and
	// soon: longer waits are the scheduler's.
	triesWithin  = 3
	firstPause   = 250 * time.Millisecond
	longestPause = 5 * time.Second

	mostRedirects = 5
)

// Codes of failures of an HTTP exchange.
const (
	codeUnexpectedStatus = "unexpected_status"
	codeRateLimited      = "rate_limited"
)

// httpRequest is one HTTP request that a run makes.
type httpRequest struct {
	method    string
	url       *url.URL
	header    http.Header
	body      []byte
	redirects int // that are followed
	expected  statuses
	timeout   time.Duration // for all tries together
	policy    egress.Policy
	// hidden says that the address comes from a connection and is not told in full.
	hidden bool
	// secrets are the connections whose secrets must not show in what is told.
	secrets []template.Connection
}

// httpAnswer is what came back, as far as it is kept.
type httpAnswer struct {
	status    int
	header    map[string]any // of keptHeaders
	body      string
	truncated bool
}

// keptHeaders are those of an answer that help and hold no credentials.
var keptHeaders = []string{"Content-Type", "Etag", "Location", "Request-Id", "Retry-After", "X-Request-Id"}

// signBody adds a timestamp and the signature that a receiver checks with the same
// key: v1= and the hexadecimal HMAC-SHA256 of the timestamp, a full stop and the
// body.
func signBody(header http.Header, key string, body []byte, at time.Time) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	header.Set(timestampHeader, timestamp)
	header.Set(signatureHeader, "v1="+hex.EncodeToString(mac.Sum(nil)))
}

// signingTime is the time that a signature states, by which receivers refuse what
// somebody kept and sent again much later.
func signingTime() time.Time {
	return time.Now() //nolint:forbidigo // no decision rests on it; a receiver compares it with its own clock
}

// redact takes the secrets out of a text.
func (r *httpRequest) redact(text string) string {
	for _, c := range r.secrets {
		text = c.Redact(text)
	}
	return text
}

// place names where the request goes without what may be secret in the address.
func (r *httpRequest) place() string {
	if r.hidden {
		return (&url.URL{Scheme: r.url.Scheme, Host: r.url.Host}).String()
	}
	return r.url.Redacted()
}

// send sends the request, follows redirects as far as it may, and returns the
// answer when its status is expected. Otherwise it returns an error beside the
// answer, if there is one.
func (r *httpRequest) send(ctx context.Context, report template.Reporter) (*httpAnswer, error) {
	transport := &http.Transport{
		// No proxy, whatever the environment says: one would connect anywhere.
		DialContext:            r.policy.Dialer().DialContext,
		TLSHandshakeTimeout:    handshakeTime,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
	}
	defer transport.CloseIdleConnections()
	return r.sendBy(ctx, transport, report)
}

// sendBy does as send, over a transport.
func (r *httpRequest) sendBy(ctx context.Context, transport http.RoundTripper, report template.Reporter) (*httpAnswer, error) {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var why string // the latest try is to be repeated
	client := &retryablehttp.Client{
		HTTPClient:   &http.Client{Transport: transport, CheckRedirect: r.mayFollow},
		RetryMax:     triesWithin - 1,
		RetryWaitMin: firstPause,
		RetryWaitMax: longestPause,
		CheckRetry: func(ctx context.Context, response *http.Response, err error) (bool, error) {
			var again bool
			again, why = r.again(ctx, response, err)
			return again, nil
		},
		Backoff: retryablehttp.DefaultBackoff,
		// What the last try met is what counts.
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
		RequestLogHook: func(_ retryablehttp.Logger, _ *http.Request, retry int) {
			if retry > 0 {
				report.Log("WARN", fmt.Sprintf("Try %d of %d, for the one before: %s", retry+1, triesWithin, why))
			}
		},
	}
	var body any // nil, not an empty body, for methods that have none
	if len(r.body) > 0 {
		body = r.body
	}
	prepared, err := retryablehttp.NewRequestWithContext(limited, r.method, r.url.String(), body)
	if err != nil {
		return nil, template.Fail(template.CodeValidation, "%s", r.redact(err.Error()))
	}
	prepared.Header = r.header.Clone()
	response, err := client.Do(prepared)
	if err != nil {
		return nil, r.failure(ctx, limited, err)
	}
	defer response.Body.Close()
	got, err := r.read(response)
	if err != nil {
		return nil, r.failure(ctx, limited, err)
	}
	return got, r.judge(got)
}

// mayFollow lets a redirect through that keeps the request what it is.
func (r *httpRequest) mayFollow(next *http.Request, via []*http.Request) error {
	switch {
	case len(via) > r.redirects,
		// The body would be lost, and the signature with it.
		next.Method != r.method,
		next.URL.Scheme != "https" && (next.URL.Scheme != "http" || via[len(via)-1].URL.Scheme == "https"),
		next.URL.User != nil:
		return http.ErrUseLastResponse // the redirect itself is the answer
	}
	// It would tell the next host the address, which may be secret.
	next.Header.Del("Referer")
	return nil
}

// again says whether, and why, a try is worth repeating at once: the request did
// not arrive, or was put off for a moment.
func (r *httpRequest) again(ctx context.Context, response *http.Response, err error) (again bool, why string) {
	switch {
	case ctx.Err() != nil:
		return false, "" // the caller looks at the context
	case err != nil:
		return unsent(err), r.redact(bare(err).Error())
	case response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable, r.expected.contain(response.StatusCode):
		return false, ""
	}
	pause := retryablehttp.DefaultBackoff(firstPause, longestPause, 0, response)
	return pause <= longestPause, r.place() + " answered " + response.Status
}

// bare leaves out what HTTP clients wrap around an error: method and address.
func bare(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// unsent reports whether a connection could not be made for a reason that may
// pass. A redirect's target counts: what led there changed nothing.
func unsent(err error) bool {
	var refused *egress.RefusedError
	var network *net.OpError
	var name *net.DNSError
	switch {
	case errors.As(err, &refused):
		return false
	case errors.As(err, &name):
		return !name.IsNotFound
	}
	return errors.As(err, &network) && network.Op == "dial"
}

// read keeps what is worth keeping of a response.
func (r *httpRequest) read(response *http.Response) (*httpAnswer, error) {
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	got := &httpAnswer{status: response.StatusCode, header: map[string]any{}, truncated: len(content) > maxAnswerBytes}
	got.body = r.redact(strings.ToValidUTF8(string(content[:min(len(content), maxAnswerBytes)]), "\uFFFD"))
	for _, name := range keptHeaders {
		if values := response.Header.Values(name); len(values) > 0 {
			got.header[name] = r.redact(shortened(strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD"), maxAnswerHeader))
		}
	}
	return got, nil
}

// judge says what an answer means.
func (r *httpRequest) judge(got *httpAnswer) error {
	if r.expected.contain(got.status) {
		return nil
	}
	said := strconv.Itoa(got.status)
	if text := http.StatusText(got.status); text != "" {
		said += " " + text
	}
	if where, ok := got.header["Location"].(string); ok {
		said += " to " + where
	}
	if when, ok := got.header["Retry-After"].(string); ok {
		said += ", to be tried again after " + when
		if _, err := strconv.Atoi(when); err == nil {
			said += " s"
		}
	}
	if body := strings.TrimSpace(got.body); body != "" {
		said += ": " + shortened(body, maxQuoted)
	}
	failed := template.Fail(codeUnexpectedStatus, "%s answered %s", r.place(), said)
	switch got.status {
	case http.StatusTooManyRequests:
		failed.Code, failed.Retryable = codeRateLimited, true
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		failed.Retryable = true
	default:
		// Other servers' own, such as 520 to 530.
		failed.Retryable = got.status > http.StatusNetworkAuthenticationRequired
	}
	return failed
}

// failure says what it means that there is no answer: limited is the run's own
// context ctx with the time for the exchange.
func (r *httpRequest) failure(ctx, limited context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return template.AsError(ended)
	}
	var refused *egress.RefusedError
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	told := r.redact(bare(err).Error())
	switch {
	case errors.As(err, &refused):
		return template.Fail(template.CodeForbidden, "%s: %v: the executor's setting allow_networks, or allow_ports, must allow it first", r.place(), refused)
	case limited.Err() != nil:
		return template.Retryable(template.CodeTimeout, "%s gave no full answer within %v", r.place(), r.timeout)
	case errors.As(err, &name) && name.IsNotFound, errors.As(err, &certificate):
		return template.Fail(template.CodeConnection, "%s: %s", r.place(), told)
	}
	return template.Retryable(template.CodeConnection, "%s: %s", r.place(), told)
}

// shortened returns at most so many characters of a text.
func shortened(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// statuses are the codes of HTTP answers between two bounds each, inclusive.
type statuses [][2]int

// parseStatuses understands "204", "200-299" and "2xx".
func parseStatuses(words []string) (statuses, error) {
	var all statuses
	for _, word := range words {
		low, high, _ := strings.Cut(word, "-")
		if strings.HasSuffix(word, "xx") {
			low, high = word[:1]+"00", word[:1]+"99"
		} else if high == "" {
			high = low
		}
		from, err1 := strconv.Atoi(low)
		to, err2 := strconv.Atoi(high)
		if err1 != nil || err2 != nil || from < 200 || to > 599 || from > to {
			return nil, fmt.Errorf(`%q must be a status such as "204", a range such as "200-299", or a class such as "2xx", from 200 to 599`, word)
		}
		all = append(all, [2]int{from, to})
	}
	return all, nil
}

func (s statuses) contain(status int) bool {
	return slices.ContainsFunc(s, func(r [2]int) bool { return r[0] <= status && status <= r[1] })
}

// Settings that the templates share which make HTTP requests.
const (
	allowNetworksSetting = "allow_networks"
	allowPortsSetting    = "allow_ports"
)

func allowNetworksSchema() map[string]any {
	return map[string]any{
		"type": "array",
		"description": "Networks in CIDR notation that may be connected to although they are not the public internet, such as 10.1.2.0/24; " +
			"loopback, private, link-local, metadata and other special addresses are refused otherwise, also behind names and redirects",
		"items":    map[string]any{"type": "string", "maxLength": 64},
		"maxItems": 100,
		"default":  []any{},
	}
}

func allowPortsSchema() map[string]any {
	return map[string]any{
		"type":        "array",
		"description": "The only ports that may be connected to, such as 443; every port when empty",
		"items":       map[string]any{"type": "integer", "minimum": 1, "maximum": 65535},
		"maxItems":    100,
		"default":     []any{},
	}
}

// egressPolicy reads the settings. The error is nil or a *template.ParamsError.
func egressPolicy(settings map[string]any) (egress.Policy, error) {
	var policy egress.Policy
	networks, _ := settings[allowNetworksSetting].([]any)
	for i, network := range networks {
		text, _ := network.(string)
		parsed, err := netip.ParsePrefix(text)
		if err != nil || parsed != parsed.Masked() || parsed.Addr().Is4In6() {
			return policy, template.BadParam(fmt.Sprintf("%s.%d", allowNetworksSetting, i),
				"must be a network in CIDR notation, such as 10.1.2.0/24 or fd12:3456::/32, with nothing set after its length")
		}
		policy.Networks = append(policy.Networks, parsed)
	}
	ports, _ := settings[allowPortsSetting].([]any)
	for _, port := range ports {
		n, ok := whole(port)
		if !ok {
			return policy, template.BadParam(allowPortsSetting, "must be whole numbers")
		}
		policy.Ports = append(policy.Ports, uint16(n))
	}
	return policy, nil
}
