package job

import "hash/fnv"

// Buckets is how many parts the jobs of a fleet are dealt out in. With 256
// registries each has eight of them.
const Buckets = 2048

// Bucket is the part that a job, with all its records, belongs to.
func Bucket(jobID string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(jobID)) // never fails
	return int(h.Sum32() % Buckets)
}

// Share is a set of buckets: those that one registry looks after. A nil Share is
// all of them. It does not change once it is in use.
type Share struct {
	has   [Buckets]bool
	count int
}

// NewShare returns the set of the given buckets.
func NewShare(buckets ...int) *Share {
	s := &Share{}
	for _, b := range buckets {
		if !s.has[b] {
			s.has[b] = true
			s.count++
		}
	}
	return s
}

// Has tells whether a job's records are in the share.
func (s *Share) Has(jobID string) bool { return s == nil || s.has[Bucket(jobID)] }

// Size is how many buckets the share has.
func (s *Share) Size() int {
	if s == nil {
		return Buckets
	}
	return s.count
}

// Buckets returns the buckets in ascending order, and whether they are all that
// there are.
func (s *Share) Buckets() (list []int, all bool) {
	if s.Size() == Buckets {
		return nil, true
	}
	list = make([]int, 0, s.count)
	for b, has := range s.has {
		if has {
			list = append(list, b)
		}
	}
	return list, false
}
