// Package templates is the registry's catalogue: which kinds of jobs there are,
// what their parameters look like, and which are carried by a connected executor
// at the moment.
package templates

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// Store is what the catalogue keeps; see store.Definitions.
type Store interface {
	PutTemplates(ctx context.Context, ts []job.Template) error
	Templates(ctx context.Context) ([]job.Template, error)
}

// Announcement is what an executor says of a template it carries.
type Announcement struct {
	job.Template
	// Restrictions are the values that this executor allows, by parameter.
	Restrictions map[string][]string
}

// Entry is a template as the catalogue knows it. It is shared and never changes.
type Entry struct {
	job.Template
	// Shown is the schema with the values that any connected executor allows.
	Shown map[string]any
	// Params is the compiled form of Shown.
	Params *template.Schema
	// Available tells whether a connected executor carries the template.
	Available bool
}

// Catalogue is safe for concurrent use; reading never waits.
type Catalogue struct {
	store Store
	log   *zap.Logger

	mu       sync.Mutex
	stands   map[string]*known   // by type: the highest version
	sessions map[string]*session // by session id
	entries  atomic.Pointer[map[string]*Entry]
}

// known is the version of a template that stands.
type known struct {
	job.Template
	schema   map[string]any
	unstored bool // the store has not confirmed it
}

type session struct {
	streams  int
	carries  map[string]Announcement
	accepted []string
}

// New returns an empty catalogue.
func New(s Store, log *zap.Logger) *Catalogue {
	c := &Catalogue{store: s, log: log, stands: map[string]*known{}, sessions: map[string]*session{}}
	c.entries.Store(&map[string]*Entry{})
	return c
}

// Refresh takes in what the store has: what was announced in earlier lives and at
// other registries. Errors: job.ErrUnavailable, or one that names a stored
// template that is not readable; then the others are taken in all the same.
func (c *Catalogue) Refresh(ctx context.Context) error {
	stored, err := c.store.Templates(ctx)
	if err != nil {
		return fmt.Errorf("read the templates: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var unreadable []error
	changed := false
	for _, t := range stored {
		if !c.yields(t) {
			continue
		}
		schema, err := decode(t.Schema)
		if err == nil {
			_, err = template.CompileSchema(schema) // so that publish can
		}
		if err != nil {
			unreadable = append(unreadable, fmt.Errorf("stored template %s: %w", t.Type, err))
			continue
		}
		c.stands[t.Type] = &known{Template: t, schema: schema}
		changed = true
	}
	if changed {
		unreadable = append(unreadable, c.publish())
	}
	return errors.Join(unreadable...)
}

// yields tells whether what stands gives way to what the store has: to a higher
// version always, to another wording of the same one unless an executor that is
// connected here carries it as it stands. Called with mu held.
func (c *Catalogue) yields(t job.Template) bool {
	k, ok := c.stands[t.Type]
	switch {
	case !ok || t.Version > k.Version:
		return true
	case t.Version < k.Version || k.unstored || reflect.DeepEqual(k.Template, t):
		return false
	}
	for _, s := range c.sessions {
		if a, ok := s.carries[t.Type]; ok && a.Version == t.Version {
			return false
		}
	}
	return true
}

// Find returns the template of that type, or nil when there is none, not even in
// the store. Errors: those of Refresh.
func (c *Catalogue) Find(ctx context.Context, templateType string) (*Entry, error) {
	if e, ok := c.Lookup(templateType); ok || templateType == "" {
		return e, nil
	}
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	e, _ := c.Lookup(templateType)
	return e, nil
}

// Announce takes in what the executor of a session carries, in place of what
// that session announced before. It returns the types that were accepted and
// those that were refused, with the reason. Each successful call is undone by
// one Withdraw. Errors: job.ErrUnavailable, after which nothing of it counts.
//
// The highest version of a template stands. Lower ones are still carried: the
// executor checks the parameters again. Of two executors that differ under one
// version, the second is refused.
func (c *Catalogue) Announce(ctx context.Context, id string, as []Announcement) (accepted []string, refused map[string]string, err error) {
	schemas := make(map[string]map[string]any, len(as))
	refused = map[string]string{}
	for _, a := range as {
		schema, err := check(a)
		if err != nil {
			refused[a.Type] = err.Error()
			continue
		}
		if _, twice := schemas[a.Type]; twice {
			refused[a.Type] = "it is announced twice"
			continue
		}
		schemas[a.Type] = schema
	}

	c.mu.Lock()
	s := &session{streams: 1, carries: map[string]Announcement{}}
	before := c.sessions[id]
	if before != nil {
		s.streams += before.streams
	}
	delete(c.sessions, id) // it may contradict what it said itself
	for _, a := range as {
		if refused[a.Type] != "" {
			continue
		}
		if reason := c.differs(a, schemas[a.Type]); reason != "" {
			refused[a.Type] = reason
			continue
		}
		s.carries[a.Type] = a
		s.accepted = append(s.accepted, a.Type)
		c.raise(a, schemas[a.Type])
	}
	c.sessions[id] = s
	err = c.publish()
	var unstored []job.Template
	for _, k := range c.stands {
		if k.unstored {
			unstored = append(unstored, k.Template)
		}
	}
	c.mu.Unlock()

	for _, name := range slices.Sorted(maps.Keys(refused)) {
		c.log.Warn("template refused", zap.String("template", name), zap.String("session", id), zap.String("reason", refused[name]))
	}
	if err == nil && len(unstored) > 0 {
		slices.SortFunc(unstored, func(a, b job.Template) int { return cmp.Compare(a.Type, b.Type) })
		if err = c.store.PutTemplates(ctx, unstored); err == nil {
			c.confirm(unstored)
		}
	}
	if err != nil {
		c.Withdraw(id)
		return nil, nil, fmt.Errorf("keep the announced templates: %w", err)
	}
	return s.accepted, refused, nil
}

// raise makes the announcement the one that stands, if it is new or newer. One
// of the same version that no connected executor contradicts replaces what an
// earlier executor said. Called with mu held.
func (c *Catalogue) raise(a Announcement, schema map[string]any) {
	k, ok := c.stands[a.Type]
	if ok && a.Version < k.Version {
		return
	}
	if ok && a.Version == k.Version {
		changes := difference(k.Template, k.schema, a.Template, schema)
		if len(changes) == 0 {
			return
		}
		c.log.Warn("a template changed without a new version", zap.String("template", a.Type), zap.Int("version", a.Version), zap.Strings("changes", changes))
	}
	c.stands[a.Type] = &known{Template: a.Template, schema: schema, unstored: true}
}

// differs says how the announcement contradicts what a connected executor
// carries under the same version, or "". Called with mu held.
func (c *Catalogue) differs(a Announcement, schema map[string]any) string {
	for _, s := range c.sessions {
		other, ok := s.carries[a.Type]
		if !ok || other.Version != a.Version {
			continue
		}
		theirs, err := decode(other.Schema)
		if err != nil {
			continue // was accepted, so it decodes
		}
		if changes := difference(other.Template, theirs, a.Template, schema); len(changes) > 0 {
			return fmt.Sprintf("another executor carries version %d differently (%s): give the changed one a new version", a.Version, strings.Join(changes, "; "))
		}
		return "" // the others agree with this one already
	}
	return ""
}

func (c *Catalogue) confirm(stored []job.Template) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range stored {
		if k := c.stands[t.Type]; reflect.DeepEqual(k.Template, t) {
			k.unstored = false
		}
	}
}

// Withdraw says that one stream of the session has closed. With the last one,
// what it announced is no longer available.
func (c *Catalogue) Withdraw(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.sessions[id]
	if !ok {
		return
	}
	if s.streams--; s.streams > 0 {
		return
	}
	delete(c.sessions, id)
	if err := c.publish(); err != nil {
		c.log.Error("templates could not be published", zap.Error(err))
	}
}

// publish makes the entries that readers see. Called with mu held.
func (c *Catalogue) publish() error {
	entries := make(map[string]*Entry, len(c.stands))
	for name, k := range c.stands {
		e := &Entry{Template: k.Template, Shown: k.schema}
		allowed := map[string][]string{}
		for _, s := range c.sessions {
			a, ok := s.carries[name]
			if !ok {
				continue
			}
			e.Available = true
			for parameter, values := range a.Restrictions {
				allowed[parameter] = append(allowed[parameter], values...)
			}
		}
		if len(allowed) > 0 {
			e.Shown = template.MergeRestricted(k.schema, allowed)
		}
		var err error
		if e.Params, err = template.CompileSchema(e.Shown); err != nil {
			return fmt.Errorf("template %s: %w", name, err)
		}
		entries[name] = e
	}
	c.entries.Store(&entries)
	return nil
}

// Lookup returns the template of that type as far as it is known here, or false.
func (c *Catalogue) Lookup(templateType string) (*Entry, bool) {
	e, ok := (*c.entries.Load())[templateType]
	return e, ok
}

// List returns all templates by type.
func (c *Catalogue) List() []*Entry {
	return slices.SortedFunc(maps.Values(*c.entries.Load()), func(a, b *Entry) int { return cmp.Compare(a.Type, b.Type) })
}

// Idempotent tells whether the template says that a second attempt after an
// interrupted first one is harmless. An unknown one does not.
func (c *Catalogue) Idempotent(templateType string) bool {
	e, ok := c.Lookup(templateType)
	return ok && e.Idempotent
}

// MaxConcurrency is how many runs of the template may go on at once in the whole
// fleet; 0 for no limit, also of an unknown one.
func (c *Catalogue) MaxConcurrency(templateType string) int {
	if e, ok := c.Lookup(templateType); ok {
		return e.MaxConcurrency
	}
	return 0
}

// check validates an announcement by itself and returns its decoded schema.
func check(a Announcement) (map[string]any, error) {
	d := template.Descriptor{
		Type: a.Type, Version: a.Version, Name: a.Name, Description: a.Description, Category: a.Category, Icon: a.Icon,
		EstimatedDuration: a.EstimatedDuration, ResourceUsage: a.ResourceUsage, RiskLevel: a.RiskLevel,
		Idempotent: a.Idempotent, Destructive: a.Destructive,
	}
	if err := d.Validate(); err != nil {
		return nil, err
	}
	if a.MaxConcurrency < 0 {
		return nil, fmt.Errorf("max concurrency: must be 0 (no limit) or more, not %d", a.MaxConcurrency)
	}
	schema, err := decode(a.Schema)
	if err != nil {
		return nil, err
	}
	if _, err := template.CompileSchema(schema); err != nil {
		return nil, err
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(a.Restrictions)) {
		if property, _ := properties[name].(map[string]any); property["type"] != "string" {
			return nil, fmt.Errorf("it restricts %q, which is no string parameter of its schema", name)
		}
	}
	return schema, nil
}

func decode(schema json.RawMessage) (map[string]any, error) {
	var m map[string]any
	if err := json.Unmarshal(schema, &m); err != nil {
		return nil, fmt.Errorf("parameters schema: %w", err)
	}
	if m == nil {
		return nil, fmt.Errorf("parameters schema: must be a JSON object")
	}
	return m, nil
}

const mostDifferences = 5

// difference says in words how b differs from a, at most five times.
func difference(a job.Template, schemaA map[string]any, b job.Template, schemaB map[string]any) []string {
	plain := func(t job.Template, schema map[string]any) map[string]any {
		return map[string]any{
			"name": t.Name, "description": t.Description, "category": t.Category, "icon": t.Icon,
			"estimated_duration": t.EstimatedDuration, "resource_usage": t.ResourceUsage, "risk_level": t.RiskLevel,
			"idempotent": t.Idempotent, "destructive": t.Destructive, "max_concurrency": t.MaxConcurrency, "parameters_schema": schema,
		}
	}
	var found []string
	compare("", plain(a, schemaA), plain(b, schemaB), &found)
	return found
}

func compare(path string, a, b any, found *[]string) {
	if len(*found) == mostDifferences {
		return
	}
	ma, okA := a.(map[string]any)
	mb, okB := b.(map[string]any)
	if !okA || !okB {
		if !reflect.DeepEqual(a, b) {
			*found = append(*found, fmt.Sprintf("%s is %s there and %s here", path, brief(a), brief(b)))
		}
		return
	}
	all := maps.Clone(ma)
	maps.Copy(all, mb)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		inner := strings.TrimPrefix(path+"."+key, ".")
		va, inA := ma[key]
		vb, inB := mb[key]
		switch {
		case inA && inB:
			compare(inner, va, vb, found)
		case len(*found) == mostDifferences:
			return
		case inA:
			*found = append(*found, inner+" is there and not here")
		default:
			*found = append(*found, inner+" is here and not there")
		}
	}
}

func brief(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(text) > 80 {
		return strings.ToValidUTF8(string(text[:77]), "") + "..."
	}
	return string(text)
}
