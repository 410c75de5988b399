package dispatch

import (
	"maps"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// openStream registers a stream. The streams of the session to this registry that
// are not open any more are closed for good: the executor discards what still
// arrives from them, so what was sent over one of them and is not held never will
// be.
func (l *loop) openStream(st *Stream, h Hello) {
	s := l.sessions[h.Session]
	if s == nil {
		s = &session{id: h.Session, host: h.Host, opened: l.now, lastChange: l.now}
		l.sessions[h.Session] = s
	}
	l.reported(s, h.Held, h.Holdings)
	for _, old := range slices.Clone(s.streams) {
		if s.report.closed(old.id) {
			l.closeStream(old, errClosed)
		}
	}
	st.session, st.templates, st.labels, st.open = s, slices.Compact(slices.Sorted(slices.Values(h.Templates))), h.Labels, true
	s.streams = append(s.streams, st)
	for of, q := range l.queues {
		if st.carries(of) {
			q.carriers = append(q.carriers, st)
			q.poll.at = l.now
		}
	}
	held := make(map[string]int64, len(h.Held))
	for _, x := range h.Held {
		held[x.ID] = x.Token
	}
	for _, ls := range byID(s.held) {
		id := ls.e.ID
		if token, ok := held[id]; ok && token == ls.e.Token {
			delete(held, id)
			ls.st, ls.number = st, 0
			if ls.e.CancelRequested {
				l.sendCancel(ls)
			}
			continue
		}
		switch {
		case ls.st != nil && ls.st.open:
		case s.report.held[Holding{id, ls.e.Token}]:
			l.forget(ls) // another registry hears of it now
		default:
			l.lost(ls, notHeld)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(held)) {
		l.checkHeld(st, Holding{id, held[id]})
	}
	// What other registries, or an earlier process of this one, sent over streams
	// that are closed.
	l.soon(pollSettle)
}

// reported keeps what an executor says of all its streams.
func (l *loop) reported(s *session, here []Holding, h Holdings) {
	r := &report{open: make(map[string]bool, len(h.OpenStreams)), last: h.LastStream, held: make(map[Holding]bool, len(here)+len(h.Elsewhere))}
	for _, id := range h.OpenStreams {
		r.open[id] = true
	}
	for _, list := range [][]Holding{here, h.Elsewhere} {
		for _, x := range list {
			r.held[x] = true
		}
	}
	if s.report != nil {
		for id := range s.report.open {
			if !r.open[id] {
				l.soon(pollSettle) // what was sent over it and did not arrive is lost
			}
		}
	}
	s.report = r
}

// closed tells whether a stream of the session will bring nothing more. One whose
// id is no ordinal is none of this protocol.
func (r *report) closed(stream string) bool {
	n, err := strconv.ParseInt(stream, 10, 64)
	return err != nil || n <= r.last && !r.open[stream]
}

// forget drops a lease from memory that is none of this registry's any more; the
// store has it.
func (l *loop) forget(ls *lease) {
	if ls.busy || ls.queued || ls.outcome != nil || ls.gone != here {
		return
	}
	ls.st = nil
	l.release(ls)
	if ls.e.Seat > 0 {
		l.takeSeat(ls.e.Frozen.TemplateType, ls.e.Seat, l.now.Add(seatPatience))
	}
}

// checkHeld asks the store about something that an executor holds and that is
// unknown here. What is stale is killed; what is unknown may still resolve
// itself.
func (l *loop) checkHeld(st *Stream, h Holding) {
	l.unexpected(st, h, func(ls *lease) {
		switch {
		case ls == nil:
			st.put(func(out *Outbound) { out.Stale = append(out.Stale, h) })
		case ls.e.CancelRequested:
			l.sendCancel(ls)
		}
	})
}

// closeStream withdraws a stream's credits. What it holds stays leased.
func (l *loop) closeStream(st *Stream, why error) {
	st.end(why)
	if !st.open {
		return
	}
	st.open, st.free, st.closedAt = false, 0, l.now
	for _, q := range l.queues {
		q.carriers = slices.DeleteFunc(q.carriers, func(c *Stream) bool { return c == st })
	}
	st.session.streams = slices.DeleteFunc(st.session.streams, func(c *Stream) bool { return c == st })
}

// lost marks a lease as gone and settles it, unless its result is already here.
func (l *loop) lost(ls *lease, how goneKind) {
	if ls.outcome != nil || ls.gone != here {
		return
	}
	ls.gone = how
	l.want(ls)
}

func (l *loop) inbound(st *Stream, in *Inbound) {
	if !st.open {
		return // from a stream that is closed: not acted on
	}
	for _, c := range in.Logs {
		l.other = append(l.other, &write{op: c})
		if ls := l.held[c.ID]; ls != nil && ls.e.Token == c.Token && notifies(ls.e) {
			ls.tail = append(ls.tail, c.Lines...)
			ls.tail = slices.Delete(ls.tail, 0, max(len(ls.tail)-tailLines, 0))
		}
	}
	for _, p := range in.Progress {
		if ls := l.held[p.ID]; ls == nil || ls.e.Token == p.Token {
			l.progress.put(p, l.now) // another registry's run is asked for here too
		}
	}
	for i := range in.Started {
		l.started(st, &in.Started[i])
	}
	for i := range in.Results {
		l.ended(st, &in.Results[i])
	}
	for _, h := range in.HandedBack {
		if ls := l.held[h.ID]; ls != nil && ls.e.Token == h.Token {
			l.lost(ls, handedBack)
			continue
		}
		l.unexpected(st, h, func(ls *lease) {
			if ls != nil && ls.e.Leased() {
				l.lost(ls, handedBack)
			}
		})
	}
	if in.Draining {
		st.draining, st.free = true, 0
	}
	if !st.draining {
		st.free += in.Credits
	}
	if in.Heartbeat != nil {
		l.heartbeat(st, in.Heartbeat)
	}
}

func (l *loop) started(st *Stream, s *Started) {
	ls := l.held[s.ID]
	if ls == nil || ls.e.Token < s.Token {
		l.unexpected(st, s.Holding, func(ls *lease) {
			if ls == nil {
				st.put(func(out *Outbound) { out.Stale = append(out.Stale, s.Holding) })
				return
			}
			l.startHeld(ls, s)
		})
		return
	}
	if ls.e.Token > s.Token {
		st.put(func(out *Outbound) { out.Stale = append(out.Stale, s.Holding) })
		return
	}
	l.startHeld(ls, s)
}

func (l *loop) startHeld(ls *lease, s *Started) {
	if ls.outcome != nil || ls.gone != here {
		return
	}
	if ls.e.Status == job.Running {
		// Said again after a reconnect: the go-ahead may have been lost.
		if !ls.e.Frozen.Idempotent {
			l.sendGo(ls)
		}
		return
	}
	if !ls.e.Leased() {
		return // unknown: it may only resolve itself by a result
	}
	ls.started = s
	l.want(ls)
}

func (l *loop) ended(st *Stream, r *Result) {
	acknowledge := func() {
		st.put(func(out *Outbound) { out.Acknowledged = append(out.Acknowledged, r.Holding) })
	}
	end := func(ls *lease) {
		ls.st = st
		if ls.outcome == nil {
			ls.outcome = &r.Outcome
			l.want(ls)
		}
	}
	ls := l.held[r.ID]
	switch {
	case ls != nil && ls.e.Token == r.Token:
		end(ls)
	case ls != nil && ls.e.Token > r.Token:
		acknowledge() // it no longer counts
	default:
		l.unexpected(st, r.Holding, func(ls *lease) {
			if ls == nil {
				acknowledge()
				return
			}
			end(ls)
		})
	}
}

// heartbeat writes the beat, and compares what the executor holds with what it
// should.
func (l *loop) heartbeat(st *Stream, h *Heartbeat) {
	s := st.session
	if !h.ReportOnly {
		s.beats = max(s.beats, s.count) + 1
		l.other = append(l.other, &write{op: &store.Beat{Session: s.id, Count: s.beats, Running: h.Running, Stopping: h.Stopping}, st: st})
	}
	l.reported(s, h.Held, h.Holdings)

	held := make(map[Holding]bool, len(h.Held))
	suspects := map[Holding]bool{}
	for _, x := range h.Held {
		held[x] = true
		if ls := l.held[x.ID]; ls == nil || ls.e.Token < x.Token {
			// Perhaps just acknowledged: only what is so twice is asked about.
			suspects[x] = true
			if st.suspects[x] {
				l.checkHeld(st, x)
			}
		} else if ls.e.Token > x.Token {
			st.put(func(out *Outbound) { out.Stale = append(out.Stale, x) })
		}
	}
	st.suspects = suspects
	var missing []*lease
	for _, ls := range s.held {
		if ls.st == st && ls.number <= h.LastNumber && ls.outcome == nil && ls.gone == here && !held[Holding{ls.e.ID, ls.e.Token}] {
			missing = append(missing, ls)
		}
	}
	for _, ls := range byID(missing) {
		l.lost(ls, notHeld)
	}
}

// endSession settles what a dead session held and ends its streams.
func (l *loop) endSession(s *session) {
	if l.sessions[s.id] != s {
		return
	}
	delete(l.sessions, s.id)
	l.log.Warn("executor lost", zap.String("executor", s.host), zap.String("session", s.id), zap.Int("held", len(s.held)))
	for _, st := range slices.Clone(s.streams) {
		l.closeStream(st, ErrSessionEnded)
	}
	for _, ls := range byID(s.held) {
		l.lost(ls, dead)
	}
	l.soon(pollSettle) // what other registries leased to it
}
