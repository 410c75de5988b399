package dispatch

import (
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// openStream registers a stream. The streams of the session that are not open
// here any more are closed for good: the executor discards what still arrives
// from them, so what was sent over one of them and is not held never will be.
func (l *loop) openStream(st *Stream, h Hello) {
	s := l.sessions[h.Session]
	if s == nil {
		s = &session{id: h.Session, host: h.Host, held: map[string]*lease{}, opened: l.now, lastChange: l.now}
		l.sessions[h.Session] = s
	}
	for _, old := range slices.Clone(s.streams) {
		if slices.Contains(h.ClosedStreams, old.id) {
			l.closeStream(old, errClosed)
		}
	}
	st.session, st.templates, st.open = s, slices.Compact(slices.Sorted(slices.Values(h.Templates))), true
	s.streams = append(s.streams, st)
	for _, t := range st.templates {
		q := l.queue(t)
		q.carriers = append(q.carriers, st)
		q.poll.at = l.now
	}
	held := make(map[string]int64, len(h.Held))
	for _, x := range h.Held {
		held[x.ID] = x.Token
	}
	for _, id := range slices.Sorted(maps.Keys(s.held)) {
		ls := s.held[id]
		if token, ok := held[id]; ok && token == ls.e.Token {
			delete(held, id)
			ls.st, ls.number = st, 0
			if ls.e.CancelRequested {
				l.sendCancel(ls)
			}
			continue
		}
		if ls.st == nil || !ls.st.open {
			l.lost(ls, notHeld)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(held)) {
		l.checkHeld(st, Holding{id, held[id]})
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
	st.open, st.free = false, 0
	for _, t := range st.templates {
		q := l.queue(t)
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
	}
	for _, p := range in.Progress {
		if ls := l.held[p.ID]; ls != nil && ls.e.Token == p.Token {
			l.progress.put(p)
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
	s.beats = max(s.beats, s.count) + 1
	l.other = append(l.other, &write{op: &store.Beat{Session: s.id, Count: s.beats}, st: st})

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
	var missing []string
	for id, ls := range s.held {
		if ls.st == st && ls.number <= h.LastNumber && ls.outcome == nil && ls.gone == here && !held[Holding{id, ls.e.Token}] {
			missing = append(missing, id)
		}
	}
	slices.Sort(missing)
	for _, id := range missing {
		l.lost(s.held[id], notHeld)
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
	for _, id := range slices.Sorted(maps.Keys(s.held)) {
		l.lost(s.held[id], dead)
	}
}
