package sqlitestore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// The table ended is a queue: each transaction appends the ends that it writes,
// and RollUp adds up some of them and removes them, in one transaction. So each
// is counted once, whatever happens in between.

const (
	// maxRollUp is how many ends one RollUp takes: other writes wait meanwhile,
	// for some milliseconds.
	maxRollUp = 500
	// step is the length of a bucket, in milliseconds.
	step = int64(store.RollUpStep / time.Millisecond)
	// block is the length of what is kept together of a job.
	block = 24 * step
	// allJobs stands in the place of a job's key for all but the system's.
	allJobs = int64(0)
	// endStatuses is how many statuses a record can end with.
	endStatuses = unknown - success + 1
	endColumns  = `success, failed, timed_out, cancelled, skipped, unknown`
	// stateDepth is how many of a job's latest records are looked at when it is
	// found out that one of them ended in another way.
	stateDepth = 100
)

// end is how a record ended, as it is queued.
type end struct {
	job, status int64
	at          int64 // none: it belongs to no time, and is not counted
	took        int64 // milliseconds from its start; none when it never started
}

func endOf(key int64, st *state) end {
	e := end{key, st.status, none, none}
	if st.status < success {
		return e
	}
	e.at = st.completedAt
	if st.startedAt != none && e.at != none {
		e.took = max(e.at-st.startedAt, 0) // two clocks may have told
	}
	return e
}

// endsTogether is how many ends one row of the queue holds.
const endsTogether = 250

// noteEnd notes the end of a record.
func (w *writer) noteEnd(e end) error {
	if e.at == none {
		return nil
	}
	w.ended = append(e.appendTo(w.ended), '\n')
	return w.endNoted()
}

// noteCorrection notes that a record that had ended as was ends otherwise, or
// goes on after all.
func (w *writer) noteCorrection(was, is end) error {
	if was == is || was.at == none && is.at == none {
		return nil
	}
	w.ended = append(is.appendTo(w.ended), ' ')
	w.ended = append(was.appendTo(w.ended), '\n')
	return w.endNoted()
}

func (w *writer) endNoted() error {
	if w.noted++; w.noted < endsTogether {
		return nil
	}
	return w.flushEnds()
}

// flushEnds appends the ends that were noted in this transaction to the queue.
func (w *writer) flushEnds() error {
	if w.noted == 0 {
		return nil
	}
	w.queueEnds.BindText(1, string(w.ended))
	_, err := w.step(w.queueEnds)
	w.ended, w.noted = w.ended[:0], 0
	return err
}

// appendTo writes the end as four words.
func (e end) appendTo(b []byte) []byte {
	for i, n := range [...]int64{e.job, e.status, e.at, e.took} {
		if i > 0 {
			b = append(b, ' ')
		}
		if n == none {
			b = append(b, '-')
		} else {
			b = strconv.AppendInt(b, n, 10)
		}
	}
	return b
}

// parseEnds reads a line of the queue. There is no end before without a
// correction.
func parseEnds(line string) (is, was end, err error) {
	numbers := [8]int64{4: 0, 6: none, 7: none}
	n := 0
	for word := range strings.SplitSeq(line, " ") {
		if n == len(numbers) {
			return end{}, end{}, fmt.Errorf("queued end %q has too many words", line)
		}
		if numbers[n] = none; word != "-" {
			if numbers[n], err = strconv.ParseInt(word, 10, 64); err != nil {
				return end{}, end{}, fmt.Errorf("queued end %q: %w", line, err)
			}
		}
		n++
	}
	if n != 4 && n != 8 {
		return end{}, end{}, fmt.Errorf("queued end %q has %d words", line, n)
	}
	is, was = end{numbers[0], numbers[1], numbers[2], numbers[3]}, end{numbers[4], numbers[5], numbers[6], numbers[7]}
	for _, e := range []end{is, was} {
		if e.at != none && (e.status < success || e.status > unknown) {
			return end{}, end{}, fmt.Errorf("queued end %q: %d is no end", line, e.status)
		}
	}
	return is, was, nil
}

// endKept returns how the record ended, as it is kept.
func (w *writer) endKept(p place) (e end, err error) {
	e = end{p.job, 0, none, none}
	_, err = w.one(`SELECT status, started_at, completed_at FROM executions WHERE seq = ?`, args{p.seq}, func(r row) {
		e = endOf(p.job, &state{status: r.int(0), startedAt: r.millis(1), completedAt: r.millis(2)})
	})
	return e, err
}

// RollUp implements [store.Insight].
func (s *Store) RollUp(ctx context.Context, _ time.Time) (more bool, err error) {
	var pending bool
	if err := s.read(ctx, func(d *data) error {
		pending, err = d.one(`SELECT 1 FROM ended`, nil, func(row) {})
		return err
	}); err != nil || !pending {
		return false, err
	}
	err = s.writeWhen(ctx, false, func(w *writer) error {
		more, err = w.rollUp()
		return err
	})
	if err != nil {
		return false, err
	}
	return more, nil
}

// sumKey is what is counted together.
type sumKey struct{ block, job, bucket int64 }

func (k sumKey) compare(o sumKey) int {
	return cmp.Or(cmp.Compare(k.block, o.block), cmp.Compare(k.job, o.job), cmp.Compare(k.bucket, o.bucket))
}

// sum is what a step of RollUp adds to a roll-up.
type sum struct {
	counts                [endStatuses]int64
	timed, total, longest int64
}

// sums are what a step of RollUp has added up.
type sums map[sumKey]*sum

func (s sums) add(key int64, e end, n int64) {
	if e.at == none {
		return
	}
	k := sumKey{e.at - e.at%block, key, e.at - e.at%step}
	u := s[k]
	if u == nil {
		u = &sum{}
		s[k] = u
	}
	u.counts[e.status-success] += n
	if e.took != none {
		u.timed += n
		u.total += n * e.took
		if n > 0 {
			u.longest = max(u.longest, e.took)
		}
	}
}

// rollUp adds up the first of the queued ends, and tells whether there are more.
func (w *writer) rollUp() (more bool, err error) {
	found := sums{}
	latest := map[int64]end{}     // of each job, those that tell its state
	corrected := map[int64]bool{} // jobs that need a closer look
	n, last := 0, int64(0)
	if err := w.each(`SELECT seq, ends FROM ended ORDER BY seq`, nil, func(r row) error {
		if n >= maxRollUp {
			more = true
			return errEnough
		}
		last = r.int(0)
		for line := range strings.Lines(r.text(1)) {
			n++
			is, was, err := parseEnds(strings.TrimSuffix(line, "\n"))
			if err != nil {
				return err
			}
			id, err := w.jobID(is.job)
			if err != nil {
				return err
			}
			found.add(is.job, is, 1)
			found.add(is.job, was, -1)
			if !job.System(id) {
				found.add(allJobs, is, 1)
				found.add(allJobs, was, -1)
			}
			if was.at != none {
				corrected[is.job] = true
			}
			if _, tells := job.StateAfter(statuses[is.status]); tells && is.at != none && latest[is.job].at <= is.at {
				latest[is.job] = is
			}
		}
		return nil
	}); err != nil || n == 0 {
		return false, err
	}
	if err := w.addSums(found); err != nil {
		return false, err
	}
	for _, key := range slices.Sorted(maps.Keys(latest)) {
		e := latest[key]
		if _, err := w.exec(`UPDATE job_state SET last_end_at = ?1, last_end = ?2 WHERE job = ?3 AND (last_end_at IS NULL OR last_end_at <= ?1)`,
			args{e.at, e.status, key}); err != nil {
			return false, err
		}
	}
	for key := range corrected {
		if _, err := w.exec(`UPDATE job_state SET (last_end_at, last_end) = (SELECT completed_at, status FROM
			(SELECT completed_at, status FROM executions WHERE job = ?1 + 0 ORDER BY at DESC, cause DESC LIMIT ?2 + 0)
			WHERE status IN (3, 4, 5, 8) ORDER BY completed_at DESC LIMIT 1) WHERE job = ?1`, args{key, stateDepth}); err != nil {
			return false, err
		}
	}
	_, err = w.exec(`DELETE FROM ended WHERE seq <= ?`, args{last})
	return more, err
}

// addSums writes in the order of the table.
func (w *writer) addSums(found sums) error {
	for _, k := range slices.SortedFunc(maps.Keys(found), sumKey.compare) {
		u := found[k]
		if _, err := w.exec(`INSERT INTO rollups (block, job, bucket, `+endColumns+`, timed, total, longest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET success = success + excluded.success, failed = failed + excluded.failed, timed_out = timed_out + excluded.timed_out,
			cancelled = cancelled + excluded.cancelled, skipped = skipped + excluded.skipped, unknown = unknown + excluded.unknown,
			timed = timed + excluded.timed, total = total + excluded.total,
			longest = CASE timed + excluded.timed WHEN 0 THEN 0 ELSE max(longest, excluded.longest) END`,
			args{k.block, k.job, k.bucket, u.counts[0], u.counts[1], u.counts[2], u.counts[3], u.counts[4], u.counts[5], u.timed, u.total, u.longest}); err != nil {
			return err
		}
	}
	return nil
}
