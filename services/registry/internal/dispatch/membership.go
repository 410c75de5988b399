package dispatch

import (
	"maps"
	"slices"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// membership is which registries share the store, as one of them sees it. Like
// executors they are known by beat counters: one is alive while its counter was
// seen to grow within the TTL, on this process's own clock. What was never seen to
// grow may have died before this process began: so a new registry first watches
// for longer than a beat takes. Being wrong costs time, never correctness: who
// looks after a job is a hint, and every change of a record is a compare-and-set.
type membership struct {
	self   string
	ttl    time.Duration
	peers  map[string]*peer // the others
	began  time.Time        // first look
	looked time.Time        // last look
	live   []string         // sorted, with self; nil while it only watches
}

type peer struct {
	count   int64
	changed time.Time // when count was last seen to grow, or zero
}

func newMembership(self string, ttl time.Duration) *membership {
	return &membership{self: self, ttl: ttl, peers: map[string]*peer{}}
}

// Paces of the fleet: how often a registry writes a beat, and looks at those of
// the others.
func beatEvery(ttl time.Duration) time.Duration { return ttl / 5 }
func lookEvery(ttl time.Duration) time.Duration { return min(ttl/10, maxSilence/2) }

// saw takes in a look at the store, and tells whether other registries live than
// before. After a pause of this process or of the store silence counts anew.
func (m *membership) saw(replicas []store.Replica, now time.Time) bool {
	if m.began.IsZero() {
		m.began = now
	}
	paused := now.Sub(m.looked) > maxSilence
	m.looked = now
	stored := make(map[string]bool, len(replicas))
	live := []string{m.self}
	for _, r := range replicas {
		if r.ID == m.self {
			continue
		}
		stored[r.ID] = true
		p := m.peers[r.ID]
		switch {
		case p == nil:
			p = &peer{count: r.Count}
			m.peers[r.ID] = p
		case r.Count > p.count, paused && !p.changed.IsZero():
			p.count, p.changed = max(p.count, r.Count), now
		}
		if !p.changed.IsZero() && now.Sub(p.changed) < m.ttl {
			live = append(live, r.ID)
		}
	}
	maps.DeleteFunc(m.peers, func(id string, _ *peer) bool { return !stored[id] })
	if m.live == nil && len(m.peers) > 0 && now.Sub(m.began) < beatEvery(m.ttl)+lookEvery(m.ttl) {
		return false
	}
	slices.Sort(live)
	if slices.Equal(live, m.live) {
		return false
	}
	m.live = live
	return true
}

// forgettable returns those that have been silent for so long that nobody needs
// to know of them.
func (m *membership) forgettable(now time.Time) []string {
	var ids []string
	for id, p := range m.peers {
		if silent := now.Sub(later(p.changed, m.began)); silent > 12*m.ttl {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// shareOf returns the buckets of one of the live registries.
func shareOf(self string, live []string) *job.Share {
	if len(live) <= 1 {
		return nil
	}
	var buckets []int
	for b, owner := range deal(live) {
		if live[owner] == self {
			buckets = append(buckets, b)
		}
	}
	return job.NewShare(buckets...)
}

// deal gives each bucket to one of the live registries, by its index. It is a
// rendezvous hash (Thaler and Ravishankar, 1998): a bucket goes to the registry
// with the highest score for it, so that a change of the fleet moves few. Here
// nobody gets more than an even share, rounded up: what does not fit goes to the
// next in the bucket's order. Everybody who sees the same fleet deals alike.
func deal(live []string) []int {
	type member struct {
		seed uint64
		has  int
	}
	members := make([]member, len(live))
	for i, id := range live {
		members[i].seed = hashOf(id)
	}
	even, larger := job.Buckets/len(live), job.Buckets%len(live) // so many get one more than even
	owners := make([]int, job.Buckets)
	for b := range owners {
		best, top := -1, uint64(0)
		for i := range members {
			m := &members[i]
			if m.has > even || m.has == even && larger == 0 {
				continue
			}
			if score := mix(m.seed ^ uint64(b)*0x9e3779b97f4a7c15); best < 0 || score > top {
				best, top = i, score
			}
		}
		m := &members[best]
		m.has++
		if m.has == even+1 {
			larger--
		}
		owners[b] = best
	}
	return owners
}

// hashOf is FNV-1a, 64 bits.
func hashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of
// the input changes about half of the output's.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
