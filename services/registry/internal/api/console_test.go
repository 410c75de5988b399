package api

import (
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
)

// The console has the addresses that the API has not, for people only.
func TestConsole(t *testing.T) {
	page := header{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8"}
	r := newRig(t, func(c *Config) {
		c.Console = fstest.MapFS{
			"index.html":       {Data: []byte("the console")},
			"assets/app-1.js":  {Data: []byte("script")},
			"docs/index.html":  {Data: []byte("the viewer")},
			"docs/viewer.js":   {Data: []byte("viewer script")},
			"healthz":          {Data: []byte("not this")},
			"api/admin/audit2": {Data: []byte("of no interest")},
		}
	})
	for path, want := range map[string]string{
		"/": "the console", "/login": "the console", "/jobs": "the console", "/runs/exec_x_m_y": "the console", "/jobs/job_x?tab=2": "the console",
		"/docs": "the viewer", "/docs/": "the viewer", "/docs/viewer.js": "viewer script", "/assets/app-1.js": "script", "/jobs/": "the console",
	} {
		a := r.as("", http.MethodGet, path, "", page)
		if a.code != 200 || a.text != want {
			t.Errorf("%s: %d %s", path, a.code, a.text)
		}
		if csp := a.header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; ") || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, a.header)
		}
	}
	for path, code := range map[string]int{
		"/assets/app-2.js": 404, "/wp-login.php": 404, "/api/nothing": 404, "/api/admin/scheduler-jobs/": 404, "/api/../jobs": 404, "/healthz": 200, jobsPath: 401,
	} {
		if a := r.as("", http.MethodGet, path, "", page); a.code != code || a.header.Get("Content-Type") != "application/json" || !strings.HasPrefix(a.header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'unsafe-inline'; ") {
			t.Errorf("%s: %d %s", path, a.code, a.text)
		}
	}
	if a := r.as("", http.MethodGet, "/jobs", ""); a.code != 404 || a.reason() != "NO_SUCH_ROUTE" {
		t.Errorf("for a program: %d %s", a.code, a.text)
	}
	if a := r.as("", http.MethodPost, "/jobs", "{}", page); a.code != 404 || a.reason() != "NO_SUCH_ROUTE" {
		t.Errorf("POST: %d %s", a.code, a.text)
	}
	if a := r.as(access.SuperAdmin, "PATCH", jobsPath+"/try", ""); a.code != 405 || a.header.Get("Allow") != "DELETE, GET, HEAD, POST, PUT" {
		t.Errorf("PATCH: %d %q", a.code, a.header.Get("Allow"))
	}
	// What looks like another host's address leads to one of this host.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"//evil.example/x", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Get("Location"); got != "" && got != "/evil.example/x" {
		t.Errorf("led to %q", got)
	}
}
