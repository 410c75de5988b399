package builtin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

const (
	// codeRegistry is the error code of an answer of the registry that cannot be
	// used.
	codeRegistry = "registry"

	jobsPage          = 100
	executionsPage    = 200
	registryPatient   = 30 * time.Second // for one answer
	maxRegistryAnswer = 64 << 20         // bytes of one page, far above what is usual
	maxErrorText      = 160              // characters

	// notificationsJob is the registry's own job, to which all notifications belong.
	notificationsJob = "job_notifications"
)

// registryClient reads the history over a registry's REST API.
type registryClient struct {
	connection template.Connection
	http       *http.Client
}

func newRegistryClient(connection template.Connection) *registryClient {
	return &registryClient{connection: connection, http: &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1, ResponseHeaderTimeout: registryPatient}, // no proxy: the address is the registry's own
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (c *registryClient) close() { c.http.CloseIdleConnections() }

// errNoSuch says that the registry does not have what was asked for.
var errNoSuch = errors.New("the registry does not have it")

// list asks for one page and calls each with every element of its list. The
// elements are decoded one by one, so that a page costs the memory of its
// largest. The error is a *template.Error, one that each returned, or errNoSuch.
func (c *registryClient) list(ctx context.Context, path string, page, limit int, name string, each func(*json.Decoder) error) error {
	query := url.Values{"page": {strconv.Itoa(page)}, "limit": {strconv.Itoa(limit)}}
	address := strings.TrimSuffix(c.connection.URI, "/") + path + "?" + query.Encode()
	limited, cancel := context.WithTimeout(ctx, 2*registryPatient)
	defer cancel()
	request, err := http.NewRequestWithContext(limited, http.MethodGet, address, http.NoBody)
	if err != nil {
		return template.Fail(template.CodeValidation, "connection %q: its URI cannot be used: correct it in the executor's configuration", c.connection.Name)
	}
	request.Header.Set("Authorization", "Bearer "+c.connection.Secret)
	response, err := c.http.Do(request)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, maxRegistryAnswer)
	if response.StatusCode != http.StatusOK {
		return c.refusal(response, body)
	}
	if err := eachElement(json.NewDecoder(body), name, each); err != nil {
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		var known *template.Error
		switch {
		case errors.As(err, &known):
			return known
		case errors.As(err, &syntax), errors.As(err, &kind), errors.Is(err, errNotList):
			return template.Fail(codeRegistry, "connection %q: what answers is no registry: %s", c.connection.Name, c.connection.Redact(err.Error()))
		}
		return c.unreachable(ctx, err)
	}
	return nil
}

func (c *registryClient) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return template.AsError(fmt.Errorf("could not read the history: %w", ctx.Err()))
	}
	return template.Retryable(template.CodeConnection, "connection %q: the registry does not answer: %s", c.connection.Name, c.connection.Redact(err.Error()))
}

// refusal says what an answer other than 200 means, in the registry's words.
func (c *registryClient) refusal(response *http.Response, body io.Reader) error {
	if response.StatusCode == http.StatusNotFound {
		return errNoSuch
	}
	var said struct{ Message string }
	text, err := io.ReadAll(io.LimitReader(body, 4<<10))
	if err != nil || json.Unmarshal(text, &said) != nil || said.Message == "" {
		said.Message = string(text)
	}
	failure := template.Fail(codeRegistry, "connection %q: the registry answers %s: %s", c.connection.Name, response.Status,
		c.connection.Redact(shortLine(strings.ToValidUTF8(said.Message, "?"), 300)))
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		failure.Code = template.CodeForbidden
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		failure.Retryable = true
	}
	return failure
}

var errNotList = errors.New("it has no such list")

// eachElement calls each before every element of the list that an object has
// under a name; each decodes that element. The rest is passed over.
func eachElement(decoder *json.Decoder, name string, each func(*json.Decoder) error) error {
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return cmp.Or(err, errNotList)
	}
	found := false
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		if key != name {
			var other json.RawMessage
			if err := decoder.Decode(&other); err != nil {
				return err
			}
			continue
		}
		found = true
		if token, err := decoder.Token(); err != nil || token != json.Delim('[') {
			return cmp.Or(err, errNotList)
		}
		for decoder.More() {
			if err := each(decoder); err != nil {
				return err
			}
		}
		if _, err := decoder.Token(); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return err
	}
	if !found {
		return errNotList
	}
	return nil
}

// Parts of the registry's answers that a report needs.
type (
	listedJob struct {
		ID           string     `json:"id"`
		Name         string     `json:"name"`
		TemplateType string     `json:"template_type"`
		Enabled      bool       `json:"enabled"`
		Organisation string     `json:"organisation"`
		CreatedAt    time.Time  `json:"created_at"`
		LastRunAt    *time.Time `json:"last_run_at"`
		NextRunAt    *time.Time `json:"next_run_at"`
	}
	listedRun struct {
		ID           string    `json:"id"`
		Status       string    `json:"status"`
		ScheduledFor time.Time `json:"scheduled_for"`
		Duration     *float64  `json:"duration_seconds"`
		Error        *string   `json:"error"`
		ErrorCode    *string   `json:"error_code"`
		Reason       *string   `json:"reason"`
	}
)

// jobs returns all jobs.
func (c *registryClient) jobs(ctx context.Context) ([]listedJob, error) {
	var all []listedJob
	known := map[string]bool{}
	for page := 1; ; page++ {
		count := 0
		err := c.list(ctx, "/api/admin/scheduler-jobs", page, jobsPage, "jobs", func(decoder *json.Decoder) error {
			var j listedJob
			if err := decoder.Decode(&j); err != nil {
				return err
			}
			count++
			if !known[j.ID] { // pages shift when a job is created meanwhile
				known[j.ID] = true
				all = append(all, j)
			}
			return nil
		})
		if errors.Is(err, errNoSuch) {
			return nil, template.Fail(codeRegistry, "connection %q: what answers is no registry: it has no list of jobs", c.connection.Name)
		}
		if err != nil {
			return nil, err
		}
		if count < jobsPage {
			return all, nil
		}
	}
}

// runs calls do with every run of a job that was due in the period, the latest
// first. A job that is not there any more, or not yet, has none.
func (c *registryClient) runs(ctx context.Context, jobID string, p period, do func(listedRun) error) error {
	var before map[string]bool // of the last page: runs recorded meanwhile shift them to the next
	for page := 1; ; page++ {
		count, over := 0, false
		seen := map[string]bool{}
		err := c.list(ctx, "/api/admin/scheduler-jobs/"+url.PathEscape(jobID)+"/executions", page, executionsPage, "executions", func(decoder *json.Decoder) error {
			var r listedRun
			if err := decoder.Decode(&r); err != nil {
				return err
			}
			count++
			seen[r.ID] = true
			switch {
			case r.ScheduledFor.Before(p.from):
				over = true
			case r.ScheduledFor.Before(p.to) && !before[r.ID]:
				return do(r)
			}
			return nil
		})
		if errors.Is(err, errNoSuch) {
			return nil
		}
		if err != nil || over || count < executionsPage {
			return err
		}
		before = seen
	}
}

// record is what became of the runs of one job, or of all of them.
type record struct {
	name                                            string
	runs, succeeded, failed, skipped, stopped, open int64
	durations                                       []float64 // seconds, of those that ended by themselves
}

// add counts a run. It tells whether that was a success or a failure; a time-out
// and an unknown end are failures.
func (r *record) add(run listedRun) (succeeded, failed bool) {
	r.runs++
	switch run.Status {
	case "success":
		r.succeeded++
		succeeded = true
	case "failed", "timed_out", "unknown":
		r.failed++
		failed = true
	case "skipped":
		r.skipped++
	case "cancelled":
		r.stopped++
	default: // pending, running, retrying
		r.open++
	}
	if (succeeded || failed) && run.Duration != nil {
		r.durations = append(r.durations, *run.Duration)
	}
	return succeeded, failed
}

// rate returns the share of successes among what ended by itself, in percent.
func (r *record) rate() cell {
	if r.succeeded+r.failed == 0 {
		return cell{}
	}
	// Down, for 100 % means all of them.
	return numberCell(math.Floor(float64(r.succeeded)*1000/float64(r.succeeded+r.failed)) / 10)
}

// percentile returns the smallest duration that so many percent of all do not
// exceed. The durations must be sorted.
func percentile(sorted []float64, percent int) cell {
	if len(sorted) == 0 {
		return cell{}
	}
	rank := (len(sorted)*percent + 99) / 100
	return numberCell(sorted[max(rank, 1)-1])
}

// foundRun is a run that a table lists.
type foundRun struct {
	listedRun
	job string
}

// chronicle gathers the history of a period. What it keeps of each run is its
// duration.
type chronicle struct {
	period  period
	top     int
	all     record
	jobs    []record
	begins  []time.Time
	good    []float64 // runs in each step of the period
	bad     []float64
	slowest []foundRun
	failed  []foundRun
	idle    []listedJob
}

func newChronicle(p period, top int) (*chronicle, []string) {
	begins, names := p.steps()
	return &chronicle{period: p, top: top, begins: begins, good: make([]float64, len(begins)), bad: make([]float64, len(begins))}, names
}

// add takes a run of a job into account.
func (h *chronicle) add(of *record, run listedRun) {
	succeeded, failed := of.add(run)
	h.all.add(run)
	at, exact := slices.BinarySearchFunc(h.begins, run.ScheduledFor, time.Time.Compare)
	if !exact {
		at--
	}
	switch {
	case succeeded:
		h.good[at]++
	case failed:
		h.bad[at]++
		h.failed = keep(h.failed, foundRun{run, of.name}, h.top, func(a, b foundRun) int { return b.ScheduledFor.Compare(a.ScheduledFor) })
	}
	if run.Duration != nil && (succeeded || failed) {
		h.slowest = keep(h.slowest, foundRun{run, of.name}, h.top, func(a, b foundRun) int { return cmp.Compare(*b.Duration, *a.Duration) })
	}
}

// keep inserts an element into a sorted list of at most so many.
func keep(sorted []foundRun, one foundRun, most int, compare func(a, b foundRun) int) []foundRun {
	at, _ := slices.BinarySearchFunc(sorted, one, compare)
	if at == most {
		return sorted
	}
	if sorted = slices.Insert(sorted, at, one); len(sorted) > most {
		sorted = sorted[:most]
	}
	return sorted
}

// end closes the record of a job.
func (h *chronicle) end(j listedJob, of record) {
	if of.runs > 0 {
		h.jobs = append(h.jobs, of)
	}
	// A run that was only skipped is none.
	if of.runs == of.skipped && j.CreatedAt.Before(h.period.to) {
		h.idle = append(h.idle, j)
	}
}

// history asks the registry and makes the report.
func (o *reportOrder) history(ctx context.Context, connection template.Connection, log template.Reporter) (*report, int64, error) {
	client := newRegistryClient(connection)
	defer client.close()
	jobs, err := client.jobs(ctx)
	if err != nil {
		return nil, 0, err
	}
	if o.organisation != "" {
		jobs = slices.DeleteFunc(jobs, func(j listedJob) bool { return j.Organisation != o.organisation })
	}
	log.Log("INFO", fmt.Sprintf("Reading the history of %d jobs, %s", len(jobs), o.period))
	h, names := newChronicle(o.period, o.top)
	for i, j := range jobs {
		of := record{name: j.Name}
		err := client.runs(ctx, j.ID, o.period, func(run listedRun) error {
			if h.all.runs == o.most {
				return template.Fail(template.CodeLimit, "the period has more than %d runs, which this executor does not permit: choose a shorter one, or one organisation", o.most)
			}
			h.add(&of, run)
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
		h.end(j, of)
		log.Progress(int64(i+1), int64(len(jobs)), fmt.Sprintf("Read %d of %d jobs", i+1, len(jobs)))
	}
	untold, err := o.notifications(ctx, client)
	if err != nil {
		return nil, 0, err
	}
	return h.report(names, int64(len(jobs)), untold), h.all.runs, nil
}

// notifications counts those of the period that did not arrive. They are not told
// apart by organisation, so a report on one leaves them out.
func (o *reportOrder) notifications(ctx context.Context, client *registryClient) (*record, error) {
	if o.organisation != "" {
		return nil, nil //nolint:nilnil // there is nothing to tell, and no error
	}
	of := &record{}
	err := client.runs(ctx, notificationsJob, o.period, func(run listedRun) error {
		of.add(run)
		return nil
	})
	return of, err
}

// report makes the report. Untold are the notifications, nil for none to tell.
func (h *chronicle) report(steps []string, jobs int64, notified *record) *report {
	slices.Sort(h.all.durations)
	never := int64(0)
	for _, j := range h.idle {
		if j.LastRunAt == nil {
			never++
		}
	}
	made := &report{About: h.period.String(), Figures: []figure{
		{"Jobs", wholeCell(jobs)},
		{"Runs", wholeCell(h.all.runs)},
		{"Succeeded", wholeCell(h.all.succeeded)},
		{"Failed", wholeCell(h.all.failed)},
		{"Success rate (%)", h.all.rate()},
		{"Skipped", wholeCell(h.all.skipped)},
		{"Cancelled", wholeCell(h.all.stopped)},
		{"Not over yet", wholeCell(h.all.open)},
		{"Median duration (s)", percentile(h.all.durations, 50)},
		{"95th percentile of durations (s)", percentile(h.all.durations, 95)},
		{"Jobs without a run in the period", wholeCell(int64(len(h.idle)))},
		{"Jobs that never ran", wholeCell(never)},
	}}
	if notified != nil {
		made.Figures = append(made.Figures, figure{"Notifications that failed", wholeCell(notified.failed)})
	}
	made.Charts = []chart{{Title: "Runs", Upright: true, Labels: steps, Series: []series{
		{Name: "succeeded", Color: colorGood, Values: h.good}, {Name: "failed", Color: colorBad, Values: h.bad},
	}}}
	made.Tables = []table{h.byJob(), h.failures(), h.slow(), h.without()}
	return made
}

// byJob lists the jobs, those with the most failures first.
func (h *chronicle) byJob() table {
	t := table{Title: "Jobs", None: "No job ran.", Columns: []string{"job", "runs", "succeeded", "failed", "success rate (%)", "skipped", "median (s)", "95th percentile (s)"}}
	slices.SortStableFunc(h.jobs, func(a, b record) int {
		return cmp.Or(cmp.Compare(b.failed, a.failed), cmp.Compare(b.runs, a.runs), strings.Compare(a.name, b.name))
	})
	rest := record{name: otherGroups}
	for i, of := range h.jobs {
		if i < h.top {
			t.Rows = append(t.Rows, of.row())
			continue
		}
		rest.runs, rest.succeeded, rest.failed, rest.skipped = rest.runs+of.runs, rest.succeeded+of.succeeded, rest.failed+of.failed, rest.skipped+of.skipped
		rest.durations = append(rest.durations, of.durations...)
	}
	if len(h.jobs) > h.top {
		t.Rows = append(t.Rows, rest.row())
	}
	return t
}

func (r *record) row() []cell {
	slices.Sort(r.durations)
	return []cell{
		textCell(r.name), wholeCell(r.runs), wholeCell(r.succeeded), wholeCell(r.failed), r.rate(), wholeCell(r.skipped),
		percentile(r.durations, 50), percentile(r.durations, 95),
	}
}

func (h *chronicle) local(at time.Time) string {
	return at.In(h.period.zone).Format("2006-01-02 15:04:05")
}

func (h *chronicle) failures() table {
	t := table{Title: "Latest failures", None: "Nothing failed.", Columns: []string{"job", "scheduled for", "status", "reason", "execution"}}
	for _, f := range h.failed {
		var said []string
		for _, s := range []*string{f.ErrorCode, f.Error, f.Reason} {
			if s != nil && *s != "" {
				said = append(said, *s)
			}
		}
		reason := shortLine(strings.Join(said, ": "), maxErrorText)
		t.Rows = append(t.Rows, []cell{textCell(f.job), textCell(h.local(f.ScheduledFor)), textCell(f.Status), textCell(reason), textCell(f.ID)})
	}
	return t
}

func (h *chronicle) slow() table {
	t := table{Title: "Slowest runs", None: "No run has ended.", Columns: []string{"job", "scheduled for", "duration (s)", "status", "execution"}}
	for _, f := range h.slowest {
		t.Rows = append(t.Rows, []cell{textCell(f.job), textCell(h.local(f.ScheduledFor)), numberCell(*f.Duration), textCell(f.Status), textCell(f.ID)})
	}
	return t
}

// without lists the jobs without a run, those that never had one first.
func (h *chronicle) without() table {
	t := table{Title: "Jobs without a run", None: "Every job ran.", Columns: []string{"job", "template", "enabled", "last run", "next run"}}
	slices.SortStableFunc(h.idle, func(a, b listedJob) int {
		ran := func(j listedJob) int {
			if j.LastRunAt == nil {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(ran(a), ran(b)), strings.Compare(a.Name, b.Name))
	})
	when := func(at *time.Time, none string) cell {
		if at == nil {
			return textCell(none)
		}
		return textCell(h.local(*at))
	}
	for i, j := range h.idle {
		if i == h.top {
			t.Rows = append(t.Rows, []cell{textCell(fmt.Sprintf("and %d more", len(h.idle)-i)), {}, {}, {}, {}})
			break
		}
		enabled := "yes"
		if !j.Enabled {
			enabled = "no"
		}
		t.Rows = append(t.Rows, []cell{textCell(j.Name), textCell(j.TemplateType), textCell(enabled), when(j.LastRunAt, "never"), when(j.NextRunAt, "none")})
	}
	return t
}
