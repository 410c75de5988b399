package job

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Queue names the waiting records that are alike to whoever hands them out: the
// same executors may run them, and none of them is more urgent than another.
type Queue struct {
	Organisation string
	TemplateType string
	Priority     int
	Selector     string // canonical, see Selector
}

// Queue is where the record waits.
func (f *Frozen) Queue() Queue {
	return Queue{Organisation: f.Organisation, TemplateType: f.TemplateType, Priority: f.Priority, Selector: f.Selector}
}

// Compare orders queues: by organisation, urgent ones first within it.
func (q Queue) Compare(o Queue) int {
	return cmp.Or(cmp.Compare(q.Organisation, o.Organisation), cmp.Compare(o.Priority, q.Priority),
		cmp.Compare(q.TemplateType, o.TemplateType), cmp.Compare(q.Selector, o.Selector))
}

// String is the queue as one word for a store's index: equal words are equal
// queues.
func (q Queue) String() string {
	return q.TemplateType + "|" + q.Organisation + "|" + strconv.Itoa(q.Priority) + "|" + q.Selector
}

// ParseQueue reads what String wrote. The parts hold no "|".
func ParseQueue(s string) (Queue, error) {
	parts := strings.SplitN(s, "|", 4)
	if len(parts) != 4 {
		return Queue{}, fmt.Errorf("%q is no queue", s)
	}
	priority, err := strconv.Atoi(parts[2])
	if err != nil {
		return Queue{}, fmt.Errorf("%q is no queue: %w", s, err)
	}
	return Queue{TemplateType: parts[0], Organisation: parts[1], Priority: priority, Selector: parts[3]}, nil
}

// Selector is the canonical form of the labels that an executor must have:
// "key=value" sorted by key, separated by commas; empty for none. Keys and values
// hold neither "=" nor ",".
func Selector(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + "=" + labels[k])
	}
	return b.String()
}

// Selects tells whether an executor with these labels satisfies a canonical
// selector.
func Selects(selector string, labels map[string]string) bool {
	for pair := range strings.SplitSeq(selector, ",") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
