package template

import (
	"cmp"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// Kinds of connections that executors know and check. Other kinds are passed on
// as they are configured.
const (
	KindMongoDB  = "mongodb"  // URI mongodb://... and Database
	KindBucket   = "bucket"   // URI file:///srv/exports or s3://KEY:SECRET@bucket?region=...&endpoint=...
	KindSMTP     = "smtp"     // URI smtp://user:password@host:port?tls=starttls|tls|none, and From
	KindWebhook  = "webhook"  // URI https://..., or Secret for signatures, or both
	KindRegistry = "registry" // URI http(s)://host:port of a registry, and its token as Secret
)

// Connection is a named destination configured at the executor. It carries
// secrets: never log it, and pass what other sides say through Redact.
type Connection struct {
	Name string `json:"-"` // set by Run.Connection
	Kind string `json:"kind"`
	// URI includes user and password, percent-encoded, where the kind has them.
	URI      string `json:"uri,omitempty"`
	Database string `json:"database,omitempty"` // "mongodb": may be empty when the URI names one
	From     string `json:"from,omitempty"`     // "smtp": the address that mail comes from
	Secret   string `json:"secret,omitempty"`   // "webhook": the key of signatures; "registry": the token
}

// String and GoString tell the kind alone, so that a connection that is logged
// by mistake gives nothing away.
func (c Connection) String() string { return c.Kind + " connection" }

// GoString does as String.
func (c Connection) GoString() string { return c.String() }

// Folder returns the folder that a bucket on the executor's own machine is
// (file:///srv/exports), or "" for every other connection. Runs with such a
// connection may read and write there.
func (c Connection) Folder() string {
	u, err := url.Parse(c.URI)
	if c.Kind != KindBucket || err != nil || u.Scheme != "file" || u.Path == "" {
		return ""
	}
	return filepath.Clean(u.Path)
}

// leastSecret is how long a secret must be for Secrets to name it: masking every
// "a" because it is a password would hide nothing and garble everything.
const leastSecret = 4

// Secrets returns what must not appear in any message: the secret, the password
// in the URI, encoded and decoded, and the URI that holds it. The longest comes
// first. The whole URI of a webhook is secret, for many services put the
// credential into its path.
func (c Connection) Secrets() []string {
	found := []string{c.Secret}
	_, rest, _ := strings.Cut(c.URI, "://")
	// By hand, for net/url refuses a MongoDB URI with several hosts.
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		_, password, _ := strings.Cut(authority[:at], ":")
		found = append(found, password)
		if plain, err := url.PathUnescape(password); err == nil {
			found = append(found, plain)
		}
		found = append(found, c.URI)
	}
	if c.Kind == KindWebhook {
		found = append(found, c.URI)
		if path := rest[len(authority):]; len(path) > 1 {
			found = append(found, path)
		}
	}
	found = slices.DeleteFunc(found, func(s string) bool { return len(s) < leastSecret })
	slices.SortFunc(found, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(found)
}

// Redact returns the text with every secret of the connection replaced by ***.
func (c Connection) Redact(text string) string {
	for _, secret := range c.Secrets() {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// Connection returns the connection that a parameter names or, when the
// parameter is absent, the only one permitted for it. The error says which names
// there are.
func (r *Run) Connection(param string) (Connection, error) {
	known := slices.Sorted(slices.Values(r.Allowed[param]))
	name, named := r.Params[param].(string)
	switch {
	case len(known) == 0:
		return Connection{}, Fail(CodeValidation, "%s: this executor permits no connection for it: configure one", param)
	case !named && len(known) > 1:
		return Connection{}, Fail(CodeValidation, "%s: is required, for there are several: give one of %s", param, strings.Join(known, ", "))
	case !named:
		name = known[0]
	}
	c, ok := r.Connections[name]
	if !ok || !slices.Contains(known, name) {
		return Connection{}, Fail(CodeValidation, "%s: %s", param, oneOf(known))
	}
	c.Name = name
	return c, nil
}
