package job

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// word returns a short word without what separates the parts of a queue.
func word(rng *rand.Rand) string {
	b := make([]byte, rng.IntN(3))
	for i := range b {
		b[i] = "ab.-_ "[rng.IntN(6)]
	}
	return string(b)
}

func randomLabels(rng *rand.Rand) map[string]string {
	labels := map[string]string{}
	for range rng.IntN(4) {
		labels["k"+word(rng)] = word(rng)
	}
	return labels
}

// Equal words are equal queues, and the other way round.
func TestQueueWords(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	byWord := map[string]Queue{}
	for range 5000 {
		q := Queue{Organisation: word(rng), TemplateType: word(rng), Priority: rng.IntN(5) - 2, Selector: Selector(randomLabels(rng))}
		back, err := ParseQueue(q.String())
		if err != nil || back != q {
			t.Fatalf("%+v is written %q and read %+v, %v", q, q.String(), back, err)
		}
		if other, ok := byWord[q.String()]; ok && other != q {
			t.Fatalf("%+v and %+v are both %q", q, other, q.String())
		}
		byWord[q.String()] = q
	}
	if len(byWord) < 1000 {
		t.Errorf("only %d different queues were tried", len(byWord))
	}
	for _, bad := range []string{"", "noop", "noop|default|0", "noop|default|high|", "noop|default||"} {
		if q, err := ParseQueue(bad); err == nil || !strings.Contains(err.Error(), "is no queue") {
			t.Errorf("%q is read as %+v, %v", bad, q, err)
		}
	}
}

func TestQueueOrder(t *testing.T) {
	want := []Queue{
		{Organisation: "acme", TemplateType: "z", Priority: 10},
		{Organisation: "acme", TemplateType: "a"},
		{Organisation: "acme", TemplateType: "a", Selector: "x=1"},
		{Organisation: "acme", TemplateType: "b"},
		{Organisation: "acme", TemplateType: "a", Priority: -10},
		{Organisation: "beta", TemplateType: "a", Priority: 10},
	}
	for seed := range uint64(20) {
		got := slices.Clone(want)
		rng := rand.New(rand.NewPCG(seed, 1))
		rng.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, Queue.Compare)
		if !slices.Equal(got, want) {
			t.Fatalf("sorted %v", got)
		}
	}
	if (Queue{}).Compare(Queue{}) != 0 {
		t.Error("equal queues differ")
	}
}

func TestFrozenQueue(t *testing.T) {
	j := &Job{TemplateType: "noop", Organisation: "acme", Priority: -3, Selector: map[string]string{"zone": "b", "arch": "arm64"}}
	f := j.Freeze(true)
	if got, want := f.Queue().String(), "noop|acme|-3|arch=arm64,zone=b"; got != want {
		t.Errorf("the queue is %q; want %q", got, want)
	}
	c := j.Clone()
	c.Selector["zone"] = "c"
	if j.Selector["zone"] != "b" {
		t.Error("a clone shares its selector")
	}
}

func TestSelects(t *testing.T) {
	for _, c := range []struct {
		selector string
		labels   map[string]string
		want     bool
	}{
		{"", nil, true},
		{"", map[string]string{"a": "1"}, true},
		{"a=1", nil, false},
		{"a=1", map[string]string{"a": "1"}, true},
		{"a=1", map[string]string{"a": "2"}, false},
		{"a=1", map[string]string{"a": "1", "b": "2"}, true},
		{"a=1,b=2", map[string]string{"a": "1"}, false},
		{"a=1,b=2", map[string]string{"b": "2", "a": "1"}, true},
		{"a=", map[string]string{"a": ""}, true},
		{"a=", map[string]string{"b": ""}, false}, // a label that is not there is not an empty one
		{"a=1", map[string]string{"A": "1"}, false},
	} {
		if got := Selects(c.selector, c.labels); got != c.want {
			t.Errorf("%q selects %v: %v", c.selector, c.labels, got)
		}
	}
}

// A selector does not depend on the order of a map, and selects exactly those
// whose labels hold all of it.
func TestSelectorIsCanonical(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	selected := 0
	for range 5000 {
		wanted, labels := randomLabels(rng), randomLabels(rng)
		s := Selector(wanted)
		if again := Selector(maps.Clone(wanted)); again != s {
			t.Fatalf("%v is %q and %q", wanted, s, again)
		}
		want := true
		for k, v := range wanted {
			have, ok := labels[k]
			want = want && ok && have == v
		}
		if got := Selects(s, labels); got != want {
			t.Fatalf("%q selects %v: %v", s, labels, got)
		}
		if !Selects(s, wanted) {
			t.Fatalf("%q does not select its own labels", s)
		}
		if want && len(wanted) > 0 {
			selected++
		}
	}
	if selected == 0 {
		t.Error("nothing was selected")
	}
	if Selector(map[string]string{}) != "" {
		t.Error("no labels make a selector")
	}
}
