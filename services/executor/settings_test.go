package executor

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

func TestSettingsTakeTextsFromFiles(t *testing.T) {
	path := write(t, "layout", "Dear {{.Name}}")
	config := Config{Templates: map[string]map[string]any{"letter": {
		"layouts": map[string]any{"plain": map[string]any{"file": path}}, "list": []any{map[string]any{"file": path}, 2},
		"other": map[string]any{"file": path, "mode": 1},
	}}}
	got, err := config.templateSettings()
	want := map[string]map[string]any{"letter": {
		"layouts": map[string]any{"plain": "Dear {{.Name}}"}, "list": []any{"Dear {{.Name}}", 2}, "other": map[string]any{"file": path, "mode": 1},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for want, settings := range map[string]map[string]any{
		"templates.letter.layouts.plain.file: open /nonexistent":            {"layouts": map[string]any{"plain": map[string]any{"file": "/nonexistent"}}},
		"templates.letter.list.0.file: /dev/zero is larger than 128 KiB":    {"list": []any{map[string]any{"file": "/dev/zero"}}},
		"templates.letter: must be an object; a file can stand for a text ": {"file": path},
	} {
		config := Config{Templates: map[string]map[string]any{"letter": settings}}
		if _, err := config.templateSettings(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestBadSettingsNameTheField(t *testing.T) {
	described := []runner.Description{
		{Descriptor: template.Descriptor{Type: "good"}},
		{Descriptor: template.Descriptor{Type: "letter"}, BadSettings: []template.FieldError{{Field: "most", Message: "is too much"}, {Message: "are odd"}}},
	}
	if err := checkSettings(nil, described); err == nil || err.Error() != "templates.letter.most: is too much; templates.letter: are odd" {
		t.Errorf("got %v", err)
	}
	settings := map[string]map[string]any{"good": {}}
	if err := checkSettings(settings, described[:1]); err != nil {
		t.Errorf("good settings are refused: %v", err)
	}
	settings["unheard_of"] = nil
	if err := checkSettings(settings, described[:1]); err == nil || err.Error() != "templates.unheard_of: the runner has no such template" {
		t.Errorf("got %v", err)
	}
}

// letter describes a template with an optional destination and a layout that its
// settings restrict.
func letter(layouts ...string) runner.Description {
	return runner.Description{
		Descriptor: template.Descriptor{
			Type: "letter", Connections: map[string]string{"server": "smtp", "copy": "bucket"}, Restricted: []string{"copy", "layout", "server"},
		},
		Schema:     map[string]any{"type": "object", "required": []any{"server"}},
		Settings:   map[string]any{"most": 3.0},
		Restricted: map[string][]string{"layout": layouts},
	}
}

func TestOfferWithSettingsAndOptionalConnections(t *testing.T) {
	mail, archive := template.Connection{Kind: "smtp", URI: "smtp://m"}, template.Connection{Kind: "bucket", URI: "file:///a"}
	for name, c := range map[string]struct {
		connections map[string]template.Connection
		allow       map[string][]string
		layouts     []string
		want        map[string][]string // nil: not offered
	}{
		"all there": {
			map[string]template.Connection{"mail": mail, "archive": archive},
			nil,
			[]string{"plain", "fancy"},
			map[string][]string{"server": {"mail"}, "copy": {"archive"}, "layout": {"fancy", "plain"}},
		},
		"only what is required": {
			map[string]template.Connection{"mail": mail}, nil, nil, map[string][]string{"server": {"mail"}, "copy": nil, "layout": nil},
		},
		"narrowed": {
			map[string]template.Connection{"mail": mail, "second": mail},
			map[string][]string{"server": {"second", "third"}, "layout": {"plain", "odd"}},
			[]string{"plain", "fancy"},
			map[string][]string{"server": {"second"}, "copy": nil, "layout": {"plain"}},
		},
		"nothing left":           {map[string]template.Connection{"mail": mail}, map[string][]string{"server": {"other"}}, nil, nil},
		"required one is absent": {map[string]template.Connection{"archive": archive}, nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Allow: map[string]map[string][]string{"letter": c.allow}}
			all := described(t)
			always := all[slices.IndexFunc(all, func(d runner.Description) bool { return d.Descriptor.Type == "test_scheduler" })]
			offered, err := offer(config, c.connections, []runner.Description{letter(c.layouts...), always}, nil, nil, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			got, there := offered["letter"]
			if there != (c.want != nil) {
				t.Fatalf("offered: %v, allowed %v", there, got.Allowed)
			}
			for parameter, want := range c.want {
				if values := got.Allowed[parameter]; len(values) != len(want) || len(want) > 0 && !reflect.DeepEqual(values, want) {
					t.Errorf("%s: %v, want %v", parameter, values, want)
				}
			}
			if there && got.settings["most"] != 3.0 {
				t.Errorf("settings %v", got.settings)
			}
			// What is not implied is not handed out unasked.
			if chosen := got.chosen([]byte(`{}`)); len(chosen) != 0 {
				t.Errorf("a run without parameters gets %v", chosen)
			}
		})
	}
}
