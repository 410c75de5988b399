package console

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

const page = "text/html,application/xhtml+xml"

func sample() fstest.MapFS {
	return fstest.MapFS{
		".gitkeep":               {Data: []byte("x")},
		"index.html":             {Data: []byte("<!doctype html>")},
		"icon.svg":               {Data: []byte("<svg/>")},
		"assets/app-1a2b.js":     {Data: []byte("a long script")},
		"assets/app-1a2b.js.gz":  {Data: []byte("packed script")},
		"assets/app-1a2b.css":    {Data: []byte("style")},
		"docs/index.html":        {Data: []byte("viewer")},
		"docs/swagger-ui.css":    {Data: []byte("viewer style")},
		"docs/swagger-ui.css.gz": {Data: []byte("packed viewer style")},
	}
}

func newConsole(t *testing.T, files fs.FS) *Console {
	t.Helper()
	c, err := New(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// get asks for a path with headers given in pairs.
func get(c *Console, method, path string, headers ...string) (*httptest.ResponseRecorder, bool) {
	r := httptest.NewRequest(method, path, http.NoBody)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	w.Header().Set("Cache-Control", "no-store") // as the API has it
	return w, c.Serve(w, r)
}

func TestServe(t *testing.T) {
	c := newConsole(t, sample())
	for name, want := range map[string]struct{ path, accept, body, kind, cache string }{
		"root":        {"/", "*/*", "<!doctype html>", "text/html; charset=utf-8", askAgain},
		"a page":      {"/jobs/job_x", page, "<!doctype html>", "text/html; charset=utf-8", askAgain},
		"by its name": {"/index.html", "*/*", "<!doctype html>", "text/html; charset=utf-8", askAgain},
		"script":      {"/assets/app-1a2b.js", "*/*", "a long script", "text/javascript; charset=utf-8", forever},
		"style":       {"/assets/app-1a2b.css", "text/css", "style", "text/css; charset=utf-8", forever},
		"icon":        {"/icon.svg", "image/*", "<svg/>", "image/svg+xml", askAgain},
		"viewer":      {"/docs", page, "viewer", "text/html; charset=utf-8", askAgain},
		"its style":   {"/docs/swagger-ui.css", "text/css", "viewer style", "text/css; charset=utf-8", askAgain},
	} {
		w, ok := get(c, http.MethodGet, want.path, "Accept", want.accept)
		h := w.Header()
		if !ok || w.Code != 200 || w.Body.String() != want.body || h.Get("Content-Type") != want.kind || h.Get("Cache-Control") != want.cache || h.Get("Content-Encoding") != "" {
			t.Errorf("%s: %t %d %q %v", name, ok, w.Code, w.Body, h)
		}
		if h.Get("Content-Security-Policy") != policy || !strings.HasPrefix(h.Get("ETag"), `"`) {
			t.Errorf("%s: %v", name, h)
		}
		head, ok := get(c, http.MethodHead, want.path, "Accept", want.accept)
		if !ok || head.Code != 200 || head.Body.Len() != 0 {
			t.Errorf("HEAD of %s: %t %d %q", name, ok, head.Code, head.Body)
		}
		same, ok := get(c, http.MethodGet, want.path, "Accept", want.accept, "If-None-Match", h.Get("ETag"))
		if !ok || same.Code != http.StatusNotModified || same.Body.Len() != 0 {
			t.Errorf("%s again: %t %d", name, ok, same.Code)
		}
	}
	for name, r := range map[string]struct{ method, path, accept string }{
		"unknown asset":  {"GET", "/assets/app-9.js", "*/*"},
		"and as a page":  {"GET", "/assets/app-9.js", page},
		"a program":      {"GET", "/jobs", "application/json"},
		"the API":        {"GET", "/api/nothing", page},
		"a packed file":  {"GET", "/assets/app-1a2b.js.gz", "*/*"},
		"a hidden file":  {"GET", "/.gitkeep", "*/*"},
		"above":          {"GET", "/../secret.txt", "*/*"},
		"a folder":       {"GET", "/assets", "*/*"},
		"another method": {"POST", "/", page},
	} {
		if w, ok := get(c, r.method, r.path, "Accept", r.accept); ok || w.Body.Len() != 0 || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %t %d %q", name, ok, w.Code, w.Body)
		}
	}
}

func TestPacked(t *testing.T) {
	c := newConsole(t, sample())
	tags := map[string]bool{}
	for accepted, packed := range map[string]bool{
		"gzip, deflate, br": true, "*": true, "br;q=1.0, gzip;q=0.5": true, "": false, "br": false, "gzip;q=0": false, "gzip;q=0.0, br": false, "identity": false,
	} {
		w, ok := get(c, http.MethodGet, "/assets/app-1a2b.js", "Accept-Encoding", accepted)
		if !ok || w.Header().Get("Vary") != "Accept-Encoding" || w.Header().Get("Content-Type") != "text/javascript; charset=utf-8" ||
			(w.Body.String() == "packed script") != packed || (w.Header().Get("Content-Encoding") == "gzip") != packed {
			t.Errorf("%q: %t %q %v", accepted, ok, w.Body, w.Header())
		}
		tags[w.Header().Get("ETag")] = true
	}
	if len(tags) != 2 {
		t.Errorf("the two forms have the tags %v", tags)
	}
	if w, _ := get(c, http.MethodGet, "/icon.svg", "Accept-Encoding", "gzip"); w.Header().Get("Content-Encoding") != "" || w.Header().Get("Vary") != "" {
		t.Errorf("a file that has no packed form: %v", w.Header())
	}
}

// A program built by Go alone says what it lacks and how to get it.
func TestWithoutConsole(t *testing.T) {
	for name, files := range map[string]fs.FS{"nothing": nil, "empty": fstest.MapFS{".gitkeep": {}}} {
		c := newConsole(t, files)
		w, ok := get(c, http.MethodGet, "/", "Accept", page)
		if !ok || w.Code != 200 || !strings.Contains(w.Body.String(), "<code>make build</code>") || !strings.Contains(w.Body.String(), "/openapi.json") {
			t.Errorf("%s: %t %d %s", name, ok, w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), "<script") {
			t.Errorf("%s: the API's policy, under which it stands, permits no scripts", name)
		}
		for _, path := range []string{"/jobs", "/docs", "/assets/app-1a2b.js"} {
			if _, ok := get(c, http.MethodGet, path, "Accept", page); ok {
				t.Errorf("%s: %s is answered", name, path)
			}
		}
	}
}

func TestTypes(t *testing.T) {
	for name, want := range map[string]string{
		"a.png": "image/png", "a.ico": "image/x-icon", "a.json": "application/json", "a.js.map": "application/json", "a.webmanifest": "application/manifest+json",
		"a.woff2": "font/woff2", "a.txt": "text/plain; charset=utf-8", "a.exe": "application/octet-stream",
	} {
		if got := typeOf(name); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
}

// broken is a file system whose files cannot be opened any more.
type broken struct {
	fstest.MapFS
	after *int // opens that succeed
}

func (b broken) Open(name string) (fs.File, error) {
	if *b.after--; *b.after < 0 {
		return nil, errors.New("disk on fire")
	}
	return b.MapFS.Open(name)
}

func (b broken) ReadFile(name string) ([]byte, error) {
	if *b.after--; *b.after < 0 {
		return nil, errors.New("disk on fire")
	}
	return b.MapFS.ReadFile(name)
}

func TestUnreadable(t *testing.T) {
	for _, opens := range []int{0, 3} {
		left := opens
		if _, err := New(broken{sample(), &left}); err == nil || !strings.Contains(err.Error(), "read the console: ") {
			t.Errorf("after %d: %v", opens, err)
		}
	}
}

// What is built in has no surprises: it can be read, and a console in it is whole.
func TestFiles(t *testing.T) {
	c := newConsole(t, Files())
	if w, ok := get(c, http.MethodGet, "/", "Accept", page); !ok || w.Code != 200 {
		t.Errorf("%t %d", ok, w.Code)
	}
	if _, err := fs.Stat(Files(), ".gitkeep"); err != nil {
		t.Error(err)
	}
}
