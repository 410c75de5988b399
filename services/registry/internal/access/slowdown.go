package access

import (
	"fmt"
	"sync"
	"time"
)

// Failed logins that cost nothing, and the longest wait afterwards. A user's
// wait stays short, because anybody can bring it about.
const (
	freeForUser    = 5
	freeForAddress = 20
	mostForUser    = 30 * time.Second
	mostForAddress = 5 * time.Minute
	forgetAfter    = 15 * time.Minute
	slowdownMost   = 20_000 // users and addresses remembered
)

// SlowDownError says that too many logins failed.
type SlowDownError struct{ Wait time.Duration }

func (e *SlowDownError) Error() string {
	return fmt.Sprintf("too many failed logins: try again in %d s", int(e.Wait.Seconds()+0.999))
}

// slowdown makes those wait who guess passwords. It is safe for concurrent use.
type slowdown struct {
	mu    sync.Mutex
	tries map[try]*tried
}

// try is whom failures are counted for: a user or an address.
type try struct{ user, address string }

type tried struct {
	failures int
	until    time.Time // no attempt before
	last     time.Time
}

func newSlowdown() *slowdown { return &slowdown{tries: map[try]*tried{}} }

// attempt counts one attempt as failed, or returns how long to wait before it.
func (s *slowdown) attempt(user, address string, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, a := s.get(try{user: user}, now), s.get(try{address: address}, now)
	if wait := max(u.until.Sub(now), a.until.Sub(now)); wait > 0 {
		return wait
	}
	u.fail(freeForUser, mostForUser, now)
	a.fail(freeForAddress, mostForAddress, now)
	return 0
}

// succeeded forgets the user's failures and the one counted ahead for the
// address; its others stay, for its owner may have an account and guess another.
func (s *slowdown) succeeded(user, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tries, try{user: user})
	if a, ok := s.tries[try{address: address}]; ok {
		a.failures--
		a.until = time.Time{}
	}
}

func (s *slowdown) get(key try, now time.Time) *tried {
	t, ok := s.tries[key]
	if ok && now.Sub(t.last) < forgetAfter {
		return t
	}
	if !ok && len(s.tries) >= slowdownMost {
		s.evict(now)
	}
	t = &tried{last: now}
	s.tries[key] = t
	return t
}

// evict makes room: what is old goes and, if that is too little, any. It frees
// an eighth at a time, so that a flood of strangers does not make it run each time.
func (s *slowdown) evict(now time.Time) {
	for key, t := range s.tries {
		if now.Sub(t.last) >= forgetAfter {
			delete(s.tries, key)
		}
	}
	for key := range s.tries {
		if len(s.tries) <= slowdownMost/8*7 {
			return
		}
		delete(s.tries, key)
	}
}

func (t *tried) fail(free int, most time.Duration, now time.Time) {
	t.failures++
	t.last = now
	if over := t.failures - free; over >= 0 {
		t.until = now.Add(min(time.Second<<min(over, 20), most))
	}
}
