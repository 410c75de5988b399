package template_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

func TestRunConnection(t *testing.T) {
	archive, exports, mail := template.Connection{Kind: "bucket", URI: "file:///a"}, template.Connection{Kind: "bucket", URI: "file:///e"}, template.Connection{Kind: "smtp"}
	for name, tc := range map[string]struct {
		params      map[string]any
		connections map[string]template.Connection
		allowed     []string
		want        string // URI, or the error
	}{
		"named":         {map[string]any{"to": "exports"}, map[string]template.Connection{"exports": exports}, []string{"archive", "exports"}, "file:///e"},
		"the only one":  {nil, map[string]template.Connection{"archive": archive}, []string{"archive"}, "file:///a"},
		"several":       {nil, nil, []string{"exports", "archive"}, "to: is required, for there are several: give one of archive, exports"},
		"none":          {map[string]any{"to": "exports"}, nil, nil, "to: this executor permits no connection for it: configure one"},
		"not permitted": {map[string]any{"to": "exports"}, map[string]template.Connection{"exports": exports}, []string{"archive"}, `to: must be one of "archive"`},
		"not given":     {map[string]any{"to": "archive"}, map[string]template.Connection{"mail": mail}, []string{"archive"}, `to: must be one of "archive"`},
	} {
		run := &template.Run{Params: tc.params, Connections: tc.connections, Allowed: map[string][]string{"to": tc.allowed}}
		c, err := run.Connection("to")
		if got := c.URI; got != tc.want && (err == nil || err.Error() != tc.want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tc.want)
		}
		if err == nil && tc.connections[c.Name].URI != c.URI {
			t.Errorf("%s: its name is %q", name, c.Name)
		}
		if err != nil && template.AsError(err).Code != template.CodeValidation {
			t.Errorf("%s: code %s", name, template.AsError(err).Code)
		}
	}
}

func TestSecrets(t *testing.T) {
	for _, tc := range []struct {
		connection template.Connection
		want       []string
	}{
		{template.Connection{Kind: "mongodb", URI: "mongodb://u:h%40sh@a:1,b:2/app"}, []string{"mongodb://u:h%40sh@a:1,b:2/app", "h%40sh", "h@sh"}},
		{template.Connection{Kind: "mongodb", URI: "mongodb://a:1/app?x=@y"}, nil},
		{template.Connection{Kind: "smtp", URI: "smtp://u:abc@mail"}, []string{"smtp://u:abc@mail"}}, // three letters cannot be masked
		{template.Connection{Kind: "bucket", URI: "s3://KEY:hush@b?region=x"}, []string{"s3://KEY:hush@b?region=x", "hush"}},
		{template.Connection{Kind: "webhook", URI: "https://chat.example/services/T1/B2", Secret: "hush"}, []string{"https://chat.example/services/T1/B2", "/services/T1/B2", "hush"}},
		{template.Connection{Kind: "registry", URI: "http://localhost:1", Secret: "hush"}, []string{"hush"}},
	} {
		if got := tc.connection.Secrets(); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %q, want %q", tc.connection.URI, got, tc.want)
		}
	}
}

func TestConnectionGivesNothingAway(t *testing.T) {
	c := template.Connection{Kind: "mongodb", URI: "mongodb://u:hush@h/app", Secret: "hush too"}
	if got := c.Redact("dial mongodb://u:hush@h/app: hush, hush too"); got != "dial ***: ***, ***" {
		t.Errorf("redacted: %q", got)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, map[string]template.Connection{"main": c}); strings.Contains(got, "hush") || !strings.Contains(got, "mongodb connection") {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

func TestFolder(t *testing.T) {
	for uri, want := range map[string]string{"file:///srv/exports/": "/srv/exports", "file:///srv/a%20b?x=y": "/srv/a b", "s3://b": "", "file://": "", "%": ""} {
		if got := (template.Connection{Kind: template.KindBucket, URI: uri}).Folder(); got != want {
			t.Errorf("%s: folder %q, want %q", uri, got, want)
		}
	}
	if got := (template.Connection{Kind: "other", URI: "file:///srv"}).Folder(); got != "" {
		t.Errorf("a connection of another kind has the folder %q", got)
	}
}

func TestSchemaRequires(t *testing.T) {
	schema, err := template.CompileSchema(map[string]any{"type": "object", "required": []any{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := []bool{schema.Requires("a"), schema.Requires("b")}; !reflect.DeepEqual(got, []bool{true, false}) {
		t.Errorf("requires %v", got)
	}
}
