package dispatch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

func fleetOf(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("registry-%03d", i)
	}
	return ids
}

// Every bucket has exactly one owner, and nobody's share is further than a fifth
// from even.
func TestSharesAreEven(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 16, 100, 255, 256} {
		live := fleetOf(n)
		counts := make([]int, n)
		for _, owner := range deal(live) {
			counts[owner]++
		}
		even := float64(job.Buckets) / float64(n)
		least, most := float64(slices.Min(counts)), float64(slices.Max(counts))
		if least < 0.8*even || most > 1.2*even {
			t.Errorf("%d registries: shares of %.0f to %.0f buckets, even is %.1f", n, least, most, even)
		}
		t.Logf("%3d registries: %.0f to %.0f buckets each, even is %.1f", n, least, most, even)
	}
}

func TestShareOf(t *testing.T) {
	if shareOf("a", []string{"a"}) != nil {
		t.Error("a lone registry does not look after everything")
	}
	live := []string{"a", "b", "c"}
	for i := range 500 {
		id := fmt.Sprintf("job_%d", i)
		owners := 0
		for _, self := range live {
			if shareOf(self, live).Has(id) {
				owners++
			}
		}
		if owners != 1 {
			t.Fatalf("%s has %d owners", id, owners)
		}
		if i == 20 {
			break // each share is dealt anew here
		}
	}
}

// A registry that leaves moves its own share and little else.
func TestFewBucketsMove(t *testing.T) {
	live := fleetOf(16)
	before, after := deal(live), deal(live[:15])
	moved := 0
	for b := range before {
		if before[b] != after[b] {
			moved++
		}
	}
	if lost := job.Buckets / 16; moved < lost || moved > 4*lost {
		t.Errorf("%d buckets moved when one registry of %d buckets left", moved, lost)
	}
}

func TestMembership(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMembership("me", 5*time.Second)
	look := func(after time.Duration, replicas ...store.Replica) bool {
		now = now.Add(after)
		return m.saw(replicas, now)
	}
	b := func(count int64) store.Replica { return store.Replica{ID: "b", Count: count} }
	dead := store.Replica{ID: "dead", Count: 99}
	// It watches before it believes: what died before it began never grows.
	if look(0, store.Replica{ID: "me", Count: 1}, b(7), dead) || look(time.Second, b(8), dead) || m.live != nil {
		t.Fatalf("it believes at once: %v", m.live)
	}
	if !look(500*time.Millisecond, b(8), dead) || !slices.Equal(m.live, []string{"b", "me"}) {
		t.Fatalf("with another, and a dead one, it sees %v", m.live)
	}
	for range 4 {
		if look(time.Second, b(8), dead) {
			t.Fatalf("%v after less than the TTL", m.live)
		}
	}
	// A look after a pause proves nothing.
	if look(time.Minute, b(8), dead) {
		t.Fatalf("declared dead after a pause: %v", m.live)
	}
	for range 4 {
		look(time.Second, b(8), dead)
	}
	if !look(time.Second, b(8), dead) || !slices.Equal(m.live, []string{"me"}) {
		t.Fatalf("silent for the TTL, it sees %v", m.live)
	}
	if !look(time.Second, b(9), dead) || !slices.Equal(m.live, []string{"b", "me"}) {
		t.Errorf("back again, it is not seen: %v", m.live)
	}
	for range 61 {
		look(time.Second, b(9))
	}
	if got := m.forgettable(now); !slices.Equal(got, []string{"b"}) {
		t.Errorf("forgets %v", got)
	}
	if look(time.Second) || len(m.peers) != 0 {
		t.Errorf("after it left: %v, %v", m.live, m.peers)
	}

	alone := newMembership("me", 5*time.Second)
	if !alone.saw([]store.Replica{{ID: "me"}}, now) || !slices.Equal(alone.live, []string{"me"}) {
		t.Errorf("alone it waits: %v", alone.live)
	}
}

// 256 registries join, leave and crash; each believes what it sees by itself. No
// bucket is without an owner for longer than the TTL and a second, counted anew
// when the one that it falls to has crashed meanwhile too.
func TestOwnershipOfALargeFleet(t *testing.T) {
	const (
		size = 256
		ttl  = 5 * time.Second
		tick = 100 * time.Millisecond
	)
	type replica struct {
		id    string
		phase int
		count int64
		m     *membership
		mine  []int // buckets
	}
	rng := rand.New(rand.NewPCG(1, 2))
	stored := map[string]*store.Replica{}
	deals := map[string]map[string][]int{} // by who lives: the buckets of each
	dealt := func(live []string) map[string][]int {
		key := strings.Join(live, " ")
		if deals[key] == nil {
			by := map[string][]int{}
			for b, owner := range deal(live) {
				by[live[owner]] = append(by[live[owner]], b)
			}
			deals[key] = by
		}
		return deals[key]
	}
	var up []*replica
	born := 0
	start := func() {
		born++
		r := &replica{id: fmt.Sprintf("registry-%d", born), phase: rng.IntN(10)}
		r.m = newMembership(r.id, ttl)
		stored[r.id] = &store.Replica{ID: r.id}
		up = append(up, r)
	}
	for range size {
		start()
	}
	began := time.Unix(0, 0)
	since := make([]time.Time, job.Buckets) // the last time a bucket had an owner
	crashed := map[string]time.Time{}
	crashes := 0
	var longest, worst time.Duration
	for n := range 1000 {
		now := began.Add(time.Duration(n) * tick)
		if n > 60 && n < 800 && rng.IntN(6) == 0 {
			i := rng.IntN(len(up))
			switch {
			case len(up) < size*3/4 || rng.IntN(2) == 0:
				if len(up) < size {
					start()
				}
			case rng.IntN(2) == 0: // leaves in good order
				delete(stored, up[i].id)
				up = slices.Delete(up, i, i+1)
			default:
				crashes++
				crashed[up[i].id] = now
				up = slices.Delete(up, i, i+1)
			}
		}
		var list []store.Replica
		for _, r := range stored {
			list = append(list, *r)
		}
		owned := make([]bool, job.Buckets)
		for _, r := range up {
			if (n+r.phase)%10 == 0 {
				r.count++
				stored[r.id].Count = r.count
			}
			if (n+r.phase)%5 == 0 && r.m.saw(list, now) {
				r.mine = dealt(r.m.live)[r.id]
			}
			for _, b := range r.mine {
				owned[b] = true
			}
		}
		believed := up[0].m.live
		for b, has := range owned {
			if has || n <= 20 { // they begin by watching
				since[b] = now
			}
			longest = max(longest, now.Sub(since[b]))
		}
		if longest > ttl && len(believed) > 0 {
			longest = 0
			owners := deal(believed)
			for b := range since {
				if at := crashed[believed[owners[b]]]; at.After(since[b]) {
					since[b] = at
				}
				longest = max(longest, now.Sub(since[b]))
			}
		}
		worst = max(worst, longest)
		longest = 0
	}
	if born < size+30 || crashes < 15 {
		t.Fatalf("only %d registries were ever there, and %d crashed", born, crashes)
	}
	if worst > ttl+time.Second {
		t.Errorf("a bucket had no owner for %v", worst)
	}
	live := slices.Clone(up[0].m.live)
	if len(live) != len(up) {
		t.Errorf("at the end %d of %d are seen", len(live), len(up))
	}
	even := float64(job.Buckets) / float64(len(up))
	for _, r := range up {
		if got := float64(len(r.mine)); got < 0.8*even || got > 1.2*even {
			t.Errorf("%s owns %.0f buckets, even is %.1f", r.id, got, even)
		}
	}
	t.Logf("%d registries in all, %d crashed, %d at the end; the longest time without an owner was %v", born, crashes, len(up), worst)
}
