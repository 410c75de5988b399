package templates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

type memory struct {
	mu   sync.Mutex
	kept map[string]job.Template
	puts int
	gets int
	fail error
}

func (m *memory) PutTemplates(_ context.Context, ts []job.Template) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.puts++
	for _, t := range ts {
		if t.Version >= m.kept[t.Type].Version {
			m.kept[t.Type] = t
		}
	}
	return nil
}

func (m *memory) Templates(context.Context) ([]job.Template, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	var all []job.Template
	for _, t := range m.kept {
		all = append(all, t)
	}
	return all, m.fail
}

const schema = `{"type": "object", "additionalProperties": false, "required": ["collection"], "properties": {
	"collection": {"type": "string"}, "dryRun": {"type": "boolean", "default": true}, "most": {"type": "integer", "default": 5}}}`

func cleanup(change ...func(*Announcement)) Announcement {
	a := Announcement{Template: job.Template{
		Type: "cleanup", Version: 1, Name: "Cleanup", Description: "Removes", Category: "maintenance", Icon: "🧹", Schema: json.RawMessage(schema),
		EstimatedDuration: "5 minutes", ResourceUsage: "low", RiskLevel: "medium", Idempotent: true, Destructive: true,
	}, Restrictions: map[string][]string{"collection": {"users", "logs"}}}
	for _, c := range change {
		c(&a)
	}
	return a
}

func newCatalogue(t *testing.T) (*Catalogue, *memory, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	m := &memory{kept: map[string]job.Template{}}
	return New(m, zap.New(core)), m, logs
}

func announce(t *testing.T, c *Catalogue, session string, as ...Announcement) map[string]string {
	t.Helper()
	_, refused, err := c.Announce(t.Context(), session, as)
	if err != nil {
		t.Fatal(err)
	}
	return refused
}

// enum is what the schema shown allows for the collection.
func enum(t *testing.T, c *Catalogue) any {
	t.Helper()
	e, ok := c.Lookup("cleanup")
	if !ok {
		t.Fatal("the template is gone")
	}
	properties, _ := e.Shown["properties"].(map[string]any)
	property, _ := properties["collection"].(map[string]any)
	return property["enum"]
}

func TestUnionOfLiveExecutors(t *testing.T) {
	c, m, _ := newCatalogue(t)
	announce(t, c, "a", cleanup())
	announce(t, c, "b", cleanup(func(a *Announcement) { a.Restrictions = map[string][]string{"collection": {"users", "tickets"}} }))
	if got, want := enum(t, c), []any{"logs", "tickets", "users"}; !reflect.DeepEqual(got, want) {
		t.Errorf("enum %v, want %v", got, want)
	}
	e, _ := c.Lookup("cleanup")
	if !e.Available || !c.Idempotent("cleanup") || c.Idempotent("other") {
		t.Errorf("entry %+v", e)
	}
	if err := e.Params.Validate(map[string]any{"collection": "sessions"}); err == nil || !strings.Contains(err.Error(), "collection") {
		t.Errorf("a collection that nobody allows: %v", err)
	}
	if m.puts != 1 {
		t.Errorf("the same template was written %d times", m.puts)
	}
	if strings.Contains(string(m.kept["cleanup"].Schema), "users") {
		t.Errorf("restrictions were stored: %s", m.kept["cleanup"].Schema)
	}

	announce(t, c, "a", cleanup()) // a second stream of the same session
	c.Withdraw("a")
	if got := enum(t, c); len(got.([]any)) != 3 {
		t.Errorf("with one of two streams left: %v", got)
	}
	c.Withdraw("a")
	if got, want := enum(t, c), []any{"tickets", "users"}; !reflect.DeepEqual(got, want) {
		t.Errorf("without a: %v, want %v", got, want)
	}
	c.Withdraw("b")
	c.Withdraw("b")
	e, ok := c.Lookup("cleanup")
	if !ok || e.Available || enum(t, c) != nil {
		t.Errorf("without executors: %+v", e)
	}
	if list := c.List(); len(list) != 1 || list[0] != e {
		t.Errorf("list %v", list)
	}
}

func TestSecondDifferenceIsRefused(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*Announcement)
		want   string
	}{
		"schema": {func(a *Announcement) {
			a.Schema = json.RawMessage(strings.Replace(schema, `"default": 5`, `"default": 6`, 1))
		}, "parameters_schema.properties.most.default is 5 there and 6 here"},
		"missing": {func(a *Announcement) {
			a.Schema = json.RawMessage(strings.Replace(schema, `"required": ["collection"], `, "", 1))
		}, "parameters_schema.required is there and not here"},
		"added": {func(a *Announcement) {
			a.Schema = json.RawMessage(strings.Replace(schema, `{"type"`, `{"title": "X", "type"`, 1))
		}, "parameters_schema.title is here and not there"},
		"descriptor":  {func(a *Announcement) { a.Idempotent = false }, "idempotent is true there and false here"},
		"concurrency": {func(a *Announcement) { a.MaxConcurrency = 2 }, "max_concurrency is 0 there and 2 here"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, logs := newCatalogue(t)
			announce(t, c, "a", cleanup())
			before, _ := c.Lookup("cleanup")
			refused := announce(t, c, "b", cleanup(x.change))
			if !strings.Contains(refused["cleanup"], x.want) || !strings.Contains(refused["cleanup"], "new version") {
				t.Errorf("refused with %q, want %q", refused["cleanup"], x.want)
			}
			if logged := logs.FilterMessage("template refused").All(); len(logged) != 1 || logged[0].ContextMap()["reason"] != refused["cleanup"] {
				t.Errorf("logged %v", logged)
			}
			if after, _ := c.Lookup("cleanup"); string(after.Schema) != string(before.Schema) || after.Idempotent != before.Idempotent {
				t.Error("the refused one stands")
			}
			// When the first is gone, it may.
			c.Withdraw("a")
			if refused := announce(t, c, "b", cleanup(x.change)); len(refused) > 0 {
				t.Errorf("with nobody to contradict: %v", refused)
			}
			if len(logs.FilterMessage("a template changed without a new version").All()) != 1 {
				t.Error("nothing was said of a change without a new version")
			}
		})
	}
}

func TestHighestVersionStands(t *testing.T) {
	c, m, _ := newCatalogue(t)
	two := cleanup(func(a *Announcement) { a.Version, a.Name = 2, "Cleanup 2" })
	announce(t, c, "new", two)
	accepted, refused, err := c.Announce(t.Context(), "old", []Announcement{cleanup()})
	if err != nil || len(refused) > 0 || !reflect.DeepEqual(accepted, []string{"cleanup"}) {
		t.Errorf("a lower version: %v, %v, %v", accepted, refused, err)
	}
	c.Withdraw("new")
	e, _ := c.Lookup("cleanup")
	if e.Name != "Cleanup 2" || !e.Available || m.kept["cleanup"].Version != 2 {
		t.Errorf("what stands: %+v", e)
	}
	announce(t, c, "newer", cleanup(func(a *Announcement) { a.Version, a.Name = 3, "Cleanup 3" }))
	if e, _ := c.Lookup("cleanup"); e.Name != "Cleanup 3" {
		t.Errorf("what stands: %+v", e)
	}
}

func TestUnfitAnnouncements(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*Announcement)
		want   string
	}{
		"type":        {func(a *Announcement) { a.Type = "Clean Up" }, "Type"},
		"version":     {func(a *Announcement) { a.Version = 0 }, "Version"},
		"concurrency": {func(a *Announcement) { a.MaxConcurrency = -1 }, "max concurrency"},
		"no schema":   {func(a *Announcement) { a.Schema = nil }, "schema"},
		"null schema": {func(a *Announcement) { a.Schema = json.RawMessage("null") }, "JSON object"},
		"bad schema":  {func(a *Announcement) { a.Schema = json.RawMessage(`{"type": "thing"}`) }, "schema"},
		"restriction": {func(a *Announcement) { a.Restrictions["most"] = []string{"5"} }, `"most"`},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := newCatalogue(t)
			a := cleanup(x.change)
			if refused := announce(t, c, "a", a); !strings.Contains(refused[a.Type], x.want) {
				t.Errorf("refused with %v, want %q", refused, x.want)
			}
			if len(c.List()) != 0 {
				t.Error("it is listed")
			}
		})
	}
	c, _, _ := newCatalogue(t)
	if refused := announce(t, c, "a", cleanup(), cleanup()); !strings.Contains(refused["cleanup"], "twice") {
		t.Errorf("announced twice: %v", refused)
	}
}

func TestStoreFailure(t *testing.T) {
	c, m, _ := newCatalogue(t)
	m.fail = fmt.Errorf("disk: %w", job.ErrUnavailable)
	if _, _, err := c.Announce(t.Context(), "a", []Announcement{cleanup()}); !errors.Is(err, job.ErrUnavailable) {
		t.Fatalf("Announce: %v", err)
	}
	if e, ok := c.Lookup("cleanup"); ok && e.Available {
		t.Error("what could not be kept is available")
	}
	if err := c.Refresh(t.Context()); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("Refresh: %v", err)
	}
	if _, err := c.Find(t.Context(), "unheard_of"); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("Find: %v", err)
	}
	m.fail = nil
	announce(t, c, "a", cleanup()) // writes what could not be written before
	if m.kept["cleanup"].Version != 1 {
		t.Error("it was not kept at the second try")
	}

	later := New(m, zap.NewNop())
	if err := later.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, ok := later.Lookup("cleanup")
	if !ok || e.Available || e.Name != "Cleanup" {
		t.Errorf("in the next life: %+v", e)
	}
	m.kept["broken"] = job.Template{Type: "broken", Schema: json.RawMessage("{")}
	m.kept["meaningless"] = job.Template{Type: "meaningless", Schema: json.RawMessage(`{"type": "thing"}`)}
	m.kept["sound"] = job.Template{Type: "sound", Schema: json.RawMessage(`{"type": "object"}`)}
	err := later.Refresh(t.Context())
	if err == nil || !strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), "meaningless") {
		t.Errorf("broken stored templates: %v", err)
	}
	if _, ok := later.Lookup("sound"); !ok || len(later.List()) != 2 {
		t.Errorf("beside broken ones: %v", later.List())
	}
}

// What is announced at one registry becomes known at the others, and never takes
// the place of what an executor here says.
func TestRefresh(t *testing.T) {
	here, m, _ := newCatalogue(t)
	there := New(m, zap.NewNop())
	announce(t, there, "a", cleanup(func(a *Announcement) { a.MaxConcurrency = 3 }))
	if _, ok := here.Lookup("cleanup"); ok || here.MaxConcurrency("cleanup") != 0 {
		t.Error("known here before anybody asked the store")
	}
	e, err := here.Find(t.Context(), "cleanup")
	if err != nil || e == nil || e.Available || here.MaxConcurrency("cleanup") != 3 {
		t.Errorf("asked for: %+v, %v", e, err)
	}
	gets := m.gets
	if again, err := here.Find(t.Context(), "cleanup"); again != e || err != nil || m.gets != gets {
		t.Errorf("asked for again: %+v, %v, after %d reads", again, err, m.gets-gets)
	}
	if e, err := here.Find(t.Context(), "unheard_of"); e != nil || err != nil || m.gets != gets+1 {
		t.Errorf("nobody's: %+v, %v", e, err)
	}
	if e, err := here.Find(t.Context(), ""); e != nil || err != nil || m.gets != gets+1 {
		t.Errorf("no name: %+v, %v", e, err)
	}

	refresh := func(want string) {
		t.Helper()
		if err := here.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e, _ := here.Lookup("cleanup"); e.Name != want {
			t.Errorf("%q stands, want %q", e.Name, want)
		}
	}
	named := func(version int, name string) Announcement {
		return cleanup(func(a *Announcement) { a.Version, a.Name = version, name })
	}
	entries := here.entries.Load()
	refresh("Cleanup")
	if here.entries.Load() != entries {
		t.Error("published again without a change")
	}
	there.Withdraw("a")
	announce(t, there, "a", named(1, "Other words"))
	refresh("Other words")
	announce(t, there, "a", named(2, "Second"))
	refresh("Second")
	announce(t, here, "b", named(3, "Third"))
	refresh("Third")
	m.kept["cleanup"] = named(3, "Third, elsewhere").Template
	refresh("Third")
	here.Withdraw("b")
	refresh("Third, elsewhere")
	m.kept["cleanup"] = named(2, "Second").Template
	refresh("Third, elsewhere")
}

func TestDifferencesAreBrief(t *testing.T) {
	a := map[string]any{}
	b := map[string]any{}
	for i := range 9 {
		a[fmt.Sprint(i)], b[fmt.Sprint(i)] = strings.Repeat("ä", 100), i
	}
	got := difference(job.Template{}, a, job.Template{}, b)
	if len(got) != mostDifferences {
		t.Errorf("%d differences", len(got))
	}
	for _, d := range got {
		if len(d) > 200 || !strings.Contains(d, "...") {
			t.Errorf("%d bytes: %s", len(d), d)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	c, _, _ := newCatalogue(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			session := fmt.Sprint(i)
			for range 20 {
				if _, _, err := c.Announce(context.Background(), session, []Announcement{cleanup()}); err != nil {
					t.Error(err)
				}
				if e, ok := c.Lookup("cleanup"); !ok || !e.Available {
					t.Error("not available while announced")
				}
				c.Withdraw(session)
			}
		})
	}
	all.Wait()
	if e, _ := c.Lookup("cleanup"); e.Available {
		t.Error("available after everybody left")
	}
}
