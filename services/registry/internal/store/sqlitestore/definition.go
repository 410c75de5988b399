package sqlitestore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// definition is what one version of a job says, as it is kept.
type definition struct {
	Name          string            `json:"name"`
	Description   string            `json:"description,omitempty"`
	TemplateType  string            `json:"template_type"`
	Parameters    json.RawMessage   `json:"parameters,omitempty"`
	Schedule      schedule.Spec     `json:"schedule"`
	Enabled       bool              `json:"enabled"`
	Timeout       time.Duration     `json:"timeout_ns"`
	MaxRetries    int               `json:"max_retries,omitempty"`
	RetryDelay    time.Duration     `json:"retry_delay_ns,omitempty"`
	Notifications job.Notifications `json:"notifications"`
	Labels        map[string]string `json:"labels"`
	Organisation  string            `json:"organisation"`
	Priority      int               `json:"priority,omitempty"`
	Selector      map[string]string `json:"selector,omitzero"`
	Missed        string            `json:"missed"`
	Overlap       string            `json:"overlap"`
	CreatedBy     string            `json:"created_by"`
	CreatedAt     time.Time         `json:"created_at"`
	UpdatedAt     time.Time         `json:"updated_at"`
}

func encodeDefinition(j *job.Job) (string, error) {
	return encode(definition{
		Name: j.Name, Description: j.Description, TemplateType: j.TemplateType, Parameters: j.Parameters, Schedule: j.Schedule,
		Enabled: j.Enabled, Timeout: j.Timeout, MaxRetries: j.Retry.MaxRetries, RetryDelay: j.Retry.Delay,
		Notifications: j.Notifications, Labels: j.Labels, Organisation: j.Organisation, Priority: j.Priority, Selector: j.Selector, Missed: j.Missed, Overlap: j.Overlap,
		CreatedBy: j.CreatedBy, CreatedAt: fromMillis(millis(j.CreatedAt)), UpdatedAt: fromMillis(millis(j.UpdatedAt)),
	})
}

// encode turns a value into JSON without the escapes that are for web pages.
func encode(v any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", fmt.Errorf("encode %T: %w", v, err)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

func decodeDefinition(id string, version int64, text []byte) (*job.Job, error) {
	var d definition
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("decode version %d of job %s: %w", version, id, err)
	}
	return &job.Job{
		ID: id, Version: int(version),
		Name: d.Name, Description: d.Description, TemplateType: d.TemplateType, Parameters: d.Parameters, Schedule: d.Schedule,
		Enabled: d.Enabled, Timeout: d.Timeout, Retry: job.RetryPolicy{MaxRetries: d.MaxRetries, Delay: d.RetryDelay},
		Notifications: d.Notifications, Labels: d.Labels, Organisation: d.Organisation, Priority: d.Priority, Selector: d.Selector, Missed: d.Missed, Overlap: d.Overlap,
		CreatedBy: d.CreatedBy, CreatedAt: fromMillis(millis(d.CreatedAt)), UpdatedAt: fromMillis(millis(d.UpdatedAt)),
	}, nil
}

// Bounds of the cache. It is emptied when one is reached: that is simple, and
// rare with fewer jobs than that.
const (
	maxKeys       = 1 << 17
	maxDefinition = 64 << 20 // bytes of JSON
)

type versionKey struct{ job, version int64 }

// cache remembers what never changes once it is committed: the keys of jobs and
// their versions; and which version of a live job is the present one. What it holds
// is shared and not to be written to. It is safe for concurrent use.
type cache struct {
	mu       sync.RWMutex
	keys     map[string]int64
	ids      map[int64]string
	versions map[versionKey]*job.Job
	size     int
	waiting  map[string]place // records that were read in order to be leased

	// present holds versions by the keys of jobs. edits counts the transactions that
	// changed some: what was read before one is not remembered after it.
	present map[int64]int64
	edits   int
}

func newCache() *cache {
	return &cache{
		keys: map[string]int64{}, ids: map[int64]string{}, versions: map[versionKey]*job.Job{}, waiting: map[string]place{}, present: map[int64]int64{},
	}
}

// definition returns the present version of a live job, nil when that is not
// remembered.
func (c *cache) definition(id string) *job.Job {
	c.mu.RLock()
	defer c.mu.RUnlock()
	key, ok := c.keys[id]
	if !ok {
		return nil
	}
	version, ok := c.present[key]
	if !ok {
		return nil
	}
	return c.versions[versionKey{key, version}]
}

// beforeReading returns what learnPresent wants to know.
func (c *cache) beforeReading() (edits int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.edits
}

// learnPresent remembers a version that was read as the present one, unless there
// were edits since.
func (c *cache) learnPresent(key, version int64, edits int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.edits != edits {
		return
	}
	if len(c.present) >= maxKeys {
		clear(c.present)
	}
	c.present[key] = version
}

// edited forgets which versions are the present ones. The writer calls it after a
// commit that changed some, before anybody learns of it.
func (c *cache) edited() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.edits++
	clear(c.present)
}

func (c *cache) key(id string) (int64, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	key, ok := c.keys[id]
	return key, ok
}

func (c *cache) id(key int64) (string, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	id, ok := c.ids[key]
	return id, ok
}

func (c *cache) version(key versionKey) *job.Job {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.versions[key]
}

func (c *cache) learnKey(id string, key int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.keys) >= maxKeys {
		clear(c.keys)
		clear(c.ids)
	}
	c.keys[id], c.ids[key] = key, id
}

func (c *cache) learnVersion(key versionKey, j *job.Job, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size += size + 1024; c.size > maxDefinition {
		clear(c.versions)
		c.size = size + 1024
	}
	c.versions[key] = j
}

// takePlace returns where a record that was read as waiting is, once.
func (c *cache) takePlace(id string) (place, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.waiting[id]
	delete(c.waiting, id)
	return p, ok
}

func (c *cache) learnPlaces(records []record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting)+len(records) > maxPlaces {
		clear(c.waiting)
	}
	for i := range records {
		r := &records[i]
		c.waiting[r.ID] = place{r.seq, r.job, r.Exclusive}
	}
}

// data is a connection together with what is known about what it reads.
type data struct {
	*conn
	cache *cache
	// defining is set while the transaction changes definitions: nothing read then
	// may be remembered.
	defining bool
}

// jobKey returns the key of a job, deleted or not.
func (d *data) jobKey(id string) (key int64, ok bool, err error) {
	if key, ok = d.cache.key(id); ok {
		return key, true, nil
	}
	ok, err = d.one(`SELECT key FROM jobs WHERE id = ?`, args{id}, func(r row) { key = r.int(0) })
	if ok && !d.defining {
		d.cache.learnKey(id, key)
	}
	return key, ok, err
}

// jobID returns the id of the job with the key.
func (d *data) jobID(key int64) (id string, err error) {
	if id, ok := d.cache.id(key); ok {
		return id, nil
	}
	found, err := d.one(`SELECT id FROM jobs WHERE key = ?`, args{key}, func(r row) { id = r.text(0) })
	if err == nil && !found {
		err = fmt.Errorf("job %d is not there", key)
	}
	if err == nil && !d.defining {
		d.cache.learnKey(id, key)
	}
	return id, err
}

// version returns a version of a job, without what changes with its runs. It is
// shared and not to be written to.
func (d *data) version(key, version int64) (*job.Job, error) {
	k := versionKey{key, version}
	if j := d.cache.version(k); j != nil {
		return j, nil
	}
	id, err := d.jobID(key)
	if err != nil {
		return nil, err
	}
	var text []byte
	found, err := d.one(`SELECT definition FROM job_versions WHERE job = ? AND version = ?`, args{key, version}, func(r row) { text = r.bytes(0) })
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("job %s has no version %d", id, version)
	}
	j, err := decodeDefinition(id, version, text)
	if err == nil && !d.defining {
		d.cache.learnVersion(k, j, len(text))
	}
	return j, err
}

// standing is a job as it stands.
type standing struct {
	*job.Job
	key, slot int64 // slot is 0 when it is free
	live      int64 // records that are not over
	state     job.State
}

// job reads a job as it stands, a tombstone included; ok is false when there is
// none. It may be written to.
func (d *data) job(id string) (s standing, ok bool, err error) {
	key, ok, err := d.jobKey(id)
	if !ok || err != nil {
		return standing{}, false, err
	}
	return d.jobByKey(key)
}

func (d *data) jobByKey(key int64) (s standing, ok bool, err error) {
	var version int64
	var next, last time.Time
	s.key = key
	var gone bool
	// Not a join with a bare parameter: SQLite would prepare the statement anew each
	// time it is bound, to plan with the value.
	ok, err = d.one(`SELECT version, next_run_at, slot, live, last_run_at, (SELECT deleted FROM jobs WHERE key = job), last_end FROM job_state WHERE job = ?`, args{key},
		func(r row) {
			version, next, s.slot, s.live, gone = r.int(0), r.time(1), r.int(2), r.int(3), r.bool(5)
			if r.int(4) > 0 {
				last = r.time(4)
			}
			s.state = job.StateNever
			if !r.null(6) {
				s.state, _ = job.StateAfter(statuses[r.int(6)])
			}
		})
	if !ok || err != nil {
		return standing{}, false, err
	}
	shared, err := d.version(key, version)
	if err != nil {
		return standing{}, false, err
	}
	s.Job = shared.Clone()
	s.NextRunAt, s.LastRunAt, s.Deleted = next, last, gone
	return s, true, nil
}
