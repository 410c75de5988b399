package job

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// The bucket of a job is kept in stores: it must never change.
func TestBucketsStayAsTheyAre(t *testing.T) {
	for id, want := range map[string]int{"": 1477, "job_a": 904, "job_abcdefghijklmnop": 361} {
		if got := Bucket(id); got != want {
			t.Errorf("%q is in bucket %d; want %d", id, got, want)
		}
	}
}

func TestBucketsAreEven(t *testing.T) {
	const each = 50
	counts := make([]int, Buckets)
	rng := rand.New(rand.NewPCG(1, 1))
	for range Buckets * each {
		counts[Bucket(fmt.Sprintf("job_%x", rng.Uint64()))]++
	}
	for b, n := range counts {
		if n < each/3 || n > each*2 {
			t.Errorf("bucket %d has %d jobs of %d", b, n, each)
		}
	}
}

func TestShares(t *testing.T) {
	if list, all := (*Share)(nil).Buckets(); list != nil || !all || !(*Share)(nil).Has("job_a") {
		t.Errorf("nil is not all: %v, %v", list, all)
	}
	if list, all := NewShare().Buckets(); len(list) != 0 || all || NewShare().Has("job_a") {
		t.Errorf("an empty share has %v, %v", list, all)
	}
	every := make([]int, Buckets)
	for b := range every {
		every[b] = b
	}
	if list, all := NewShare(every...).Buckets(); list != nil || !all {
		t.Errorf("all buckets are %v, %v", list, all)
	}
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		want := map[int]bool{}
		var buckets []int
		for range rng.IntN(100) {
			b := rng.IntN(Buckets)
			want[b] = true
			buckets = append(buckets, b) // perhaps twice
		}
		s := NewShare(buckets...)
		list, all := s.Buckets()
		if all || len(list) != len(want) || !slices.IsSorted(list) {
			t.Fatalf("%d buckets are %v, %v", len(want), list, all)
		}
		for range 200 {
			id := fmt.Sprintf("job_%x", rng.Uint64())
			if s.Has(id) != want[Bucket(id)] || s.Has(id) != slices.Contains(list, Bucket(id)) {
				t.Fatalf("seed %d: %s in bucket %d: %v", seed, id, Bucket(id), s.Has(id))
			}
		}
	}
}
