package dispatch

// agenda is the near future: a 4-ary heap of values, earliest first. Entries
// are deleted lazily: one whose generation is no longer its item's is void.
type agenda struct {
	entries []entry
}

type entry struct {
	at   int64 // Unix milliseconds
	gen  uint32
	item *item
}

func (a *agenda) push(e entry) {
	a.entries = append(a.entries, e)
	i := len(a.entries) - 1
	for i > 0 {
		parent := (i - 1) / 4
		if a.entries[parent].at <= e.at {
			break
		}
		a.entries[i] = a.entries[parent]
		i = parent
	}
	a.entries[i] = e
}

// next returns the earliest live entry without removing it.
func (a *agenda) next() (entry, bool) {
	for len(a.entries) > 0 {
		if e := a.entries[0]; e.item.gen == e.gen {
			return e, true
		}
		a.pop()
	}
	return entry{}, false
}

func (a *agenda) pop() {
	last := len(a.entries) - 1
	e := a.entries[last]
	a.entries[last] = entry{}
	a.entries = a.entries[:last]
	if last == 0 {
		return
	}
	i := 0
	for {
		least, first := i, 4*i+1
		at := e.at
		for c := first; c < first+4 && c < last; c++ {
			if a.entries[c].at < at {
				least, at = c, a.entries[c].at
			}
		}
		if least == i {
			break
		}
		a.entries[i] = a.entries[least]
		i = least
	}
	a.entries[i] = e
}
