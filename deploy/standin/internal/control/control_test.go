package control

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/deploy/standin/internal/proxy"
)

func TestHandler(t *testing.T) {
	faults := &proxy.Faults{}
	served := httptest.NewServer(Handler(faults))
	defer served.Close()
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{http.MethodGet, "/faults", "", http.StatusOK, `{"faults":[]}`},
		{http.MethodPost, "/faults", `{"command":"update","collection":"things","action":"refuse","code":189,"count":2}`, http.StatusCreated, `{"id":1}`},
		{http.MethodPost, "/faults", `{"command":"any","action":"cut_after"}`, http.StatusCreated, `{"id":2}`},
		{
			http.MethodGet, "/faults", "", http.StatusOK,
			`{"faults":[{"id":1,"command":"update","collection":"things","action":"refuse","code":189,"count":2,"selected":0,"fired":0},` +
				`{"id":2,"command":"any","action":"cut_after","selected":0,"fired":0}]}`,
		},
		{http.MethodGet, "/faults/1?fired=0", "", http.StatusOK, `{"id":1,"command":"update","collection":"things","action":"refuse","code":189,"count":2,"selected":0,"fired":0}`},
		{http.MethodDelete, "/faults/1", "", http.StatusNoContent, ""},
		{http.MethodDelete, "/faults/1", "", http.StatusNotFound, `{"error":"no such fault: 1"}`},
		{http.MethodGet, "/faults/1", "", http.StatusNotFound, `{"error":"no such fault: 1"}`},
		{http.MethodDelete, "/faults", "", http.StatusNoContent, ""},
		{http.MethodGet, "/faults", "", http.StatusOK, `{"faults":[]}`},

		{http.MethodPost, "/faults", `{"command":"any"}`, http.StatusBadRequest, `{"error":"action \"\" is none of cut_before, cut_after, delay_before, delay_after, refuse"}`},
		{http.MethodPost, "/faults", `{"command":"any","actoin":"refuse"}`, http.StatusBadRequest, `{"error":"the body is no fault: json: unknown field \"actoin\""}`},
		{http.MethodPost, "/faults", `{"contains":"` + strings.Repeat("x", maxBytes) + `"}`, http.StatusRequestEntityTooLarge, `{"error":"the body is no fault: http: request body too large"}`},
		{http.MethodGet, "/faults/one", "", http.StatusBadRequest, `{"error":"fault \"one\" is no number"}`},
		{http.MethodGet, "/faults/1?fired=often", "", http.StatusBadRequest, `{"error":"fired \"often\" is no number"}`},
		{http.MethodDelete, "/faults/one", "", http.StatusBadRequest, `{"error":"fault \"one\" is no number"}`},
	} {
		request, err := http.NewRequestWithContext(t.Context(), step.method, served.URL+step.path, strings.NewReader(step.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != step.status || strings.TrimSpace(string(got)) != step.want {
			t.Errorf("%s %s: %d %s (%v)\nwant %d %s", step.method, step.path, response.StatusCode, got, err, step.status, step.want)
		}
	}
	if left := faults.List(); len(left) != 0 {
		t.Errorf("%v are set", left)
	}
}

func TestCheckAddress(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:0":     "",
		"127.8.8.8:80":    "",
		"localhost:27018": "",
		"[::1]:0":         "",
		":27018":          "not on the loopback interface",
		"0.0.0.0:27018":   "not on the loopback interface",
		"[::]:27018":      "not on the loopback interface",
		"example.com:80":  "not on the loopback interface",
		"127.0.0.1":       "no host:port",
	} {
		err := CheckAddress(address)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", address, err, want)
		}
	}
}
