// Package console serves the web console that was built into the program: its one
// page under every address of it, its assets for ever, and the viewer of the API.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

// built is what `make build` put there: nothing, when the program was built by Go
// alone.
//
//go:embed all:dist
var built embed.FS

// Files returns the console that was built into this program.
func Files() fs.FS {
	files, err := fs.Sub(built, "dist")
	if err != nil { // the name is a constant that is embedded
		return built
	}
	return files
}

const (
	// policy lets a page load what this registry serves, and nothing else. The
	// component library sets styles of elements, which cannot be listed beforehand.
	policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; " +
		"connect-src 'self'; manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
	index    = "index.html"
	viewer   = "docs/index.html" // of the API
	packed   = ".gz"
	assets   = "assets/" // whose names change with what is in them
	forever  = "public, max-age=31536000, immutable"
	askAgain = "no-cache"
)

// without is the page of a registry that has no console.
const without = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Almanac</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>
<h1>Almanac</h1>
<p>A registry of scheduled jobs. This one was built without its web console: <code>make build</code> builds both,
where Node.js and npm are at hand. Until then it is used through its API.</p>
<ul>
<li>REST: <code>/api/admin/scheduler-jobs</code>, <code>/api/admin/job-templates</code>, <code>/api/admin/job-executions</code>,
<code>/api/admin/workers</code>.
Send <code>Authorization: Bearer &lt;token&gt;</code>; <code>POST /api/auth/login</code> exchanges a password for a token.</li>
<li>The API's document: <a href="/openapi.json">/openapi.json</a> (OpenAPI 2.0).</li>
<li>gRPC, with reflection, on a port of its own.</li>
<li>Health: <a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>.</li>
</ul>
</html>
`

// Console serves a console. It is safe for concurrent use.
type Console struct {
	files map[string]file // by name
}

type file struct {
	text []byte
	tag  string // its ETag
}

// New returns a console of files: index.html, assets/ and whatever else is beside
// them, each perhaps with its compressed form, called the same and .gz. nil or
// files without an index.html make one that says that there is none. It fails when
// a file cannot be read.
func New(files fs.FS) (*Console, error) {
	c := &Console{files: map[string]file{}}
	if files == nil {
		return c, nil
	}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path.Base(name), ".") {
			return err
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		c.files[name] = file{text, `"` + hex.EncodeToString(sum[:16]) + `"`}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the console: %w", err)
	}
	return c, nil
}

// IsPage tells whether a person with a browser asks for a page, rather than a
// program for something of the API.
func IsPage(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && path.Ext(r.URL.Path) == "" &&
		!strings.HasPrefix(r.URL.Path, "/api/") && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// Serve answers a request for something of the console and returns true; of
// others it returns false and leaves them alone. Which page an address means is
// found out in the browser, so any page that a person asks for is the same one.
func (c *Console) Serve(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case !c.has(index):
		if name != "" {
			return false
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, without)
		return true
	case name == "docs" && c.has(viewer):
		name = viewer
	case name == "" || !c.has(name) && IsPage(r):
		name = index
	}
	if !c.has(name) || strings.HasSuffix(name, packed) {
		return false
	}
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Content-Type", typeOf(name))
	h.Set("Cache-Control", askAgain)
	if strings.HasPrefix(name, assets) {
		h.Set("Cache-Control", forever)
	}
	if c.has(name + packed) {
		h.Add("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header.Get("Accept-Encoding")) {
			h.Set("Content-Encoding", "gzip")
			name += packed
		}
	}
	h.Set("ETag", c.files[name].tag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(c.files[name].text))
	return true
}

func (c *Console) has(name string) bool {
	_, ok := c.files[name]
	return ok
}

// typeOf does not ask the machine, whose table may have been changed.
func typeOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".png":
		return "image/png"
	case ".ico":
		return "image/x-icon"
	case ".json", ".map":
		return "application/json"
	case ".webmanifest":
		return "application/manifest+json"
	case ".woff2":
		return "font/woff2"
	case ".txt":
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// acceptsGzip reads an Accept-Encoding header.
func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		coding, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err == nil && (coding == "gzip" || coding == "*") {
			return strings.Trim(params["q"], "0.") != "" || params["q"] == ""
		}
	}
	return false
}
