// Package move copies everything that a registry keeps from one store to
// another, and proves by reading both back that they hold the same.
package move

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

var (
	// ErrInUse means that a registry works on one of the stores.
	ErrInUse = errors.New("a registry is at work")
	// ErrDiffers means that the target holds what the source does not.
	ErrDiffers = errors.New("the target holds other records than the source")
	// ErrNotEqual means that the two differ after all was copied.
	ErrNotEqual = errors.New("the copy is not equal to the source")
)

// Move is one move.
type Move struct {
	From, To Store
	// DryRun compares and counts only.
	DryRun bool
	// Now is the time of the move.
	Now time.Time
	// Settle waits for so long that a registry that lives has beaten meanwhile.
	Settle func(context.Context) error
	// Progress gets lines for people.
	Progress io.Writer
}

// Count is what became of one kind.
type Count struct {
	Kind   Kind
	Source int // records in the source
	Before int // of them in the target before
	Copied int
}

// Bounds of what is held in memory at once.
const (
	maxBatch = 500    // records
	maxLines = 20_000 // log lines
	tellEach = 10_000 // records, between two lines of progress
	maxTold  = 5      // records named in an error
)

// Run copies what the target lacks and verifies that both hold the same. It may
// be repeated: what an interrupted one copied stays, and where all is there
// already it only verifies. Unless the target is empty or holds nothing but
// records equal to those of the source, nothing is copied and the error wraps
// ErrDiffers. While a registry works on either, the error wraps ErrInUse.
func Run(ctx context.Context, m Move) ([]Count, error) {
	idle, err := m.idle(ctx)
	if err != nil {
		return nil, err
	}
	if !m.DryRun {
		if err := m.From.Finish(ctx, m.Now); err != nil {
			return nil, fmt.Errorf("finish what was left half done in the source: %w", err)
		}
	}
	m.tell("comparing")
	counts := make([]Count, len(Kinds))
	var foreign findings
	for i, kind := range Kinds {
		c, err := compare(ctx, m.From, m.To, kind, derived)
		if err != nil {
			return nil, err
		}
		counts[i] = Count{Kind: kind, Source: c.source, Before: c.equal}
		foreign.add(c.foreign)
	}
	if foreign.total > 0 {
		return nil, fmt.Errorf("%w, and nothing was copied: %s; use an empty target", ErrDiffers, foreign.String())
	}
	if m.DryRun {
		return counts, nil
	}
	for i := range counts {
		if err := m.copy(ctx, &counts[i]); err != nil {
			return counts, err
		}
	}
	m.tell("verifying")
	var unequal findings
	for _, kind := range Kinds {
		c, err := compare(ctx, m.From, m.To, kind, "")
		if err != nil {
			return counts, err
		}
		unequal.add(c.missing)
		unequal.add(c.foreign)
	}
	if err := m.stillIdle(ctx, idle); err != nil {
		return counts, err
	}
	if unequal.total > 0 {
		return counts, fmt.Errorf("%w: %s", ErrNotEqual, unequal.String())
	}
	return counts, nil
}

func (m *Move) tell(format string, args ...any) { fmt.Fprintf(m.Progress, format+"\n", args...) }

// copy imports the records of a kind, unless all are there.
func (m *Move) copy(ctx context.Context, c *Count) error {
	if c.Before == c.Source {
		return nil
	}
	var batch []Record
	lines, read := 0, 0
	flush := func() error {
		n, err := m.To.Import(ctx, batch)
		if err != nil {
			return fmt.Errorf("write %s to the target: %w", c.Kind, err)
		}
		c.Copied += n
		batch, lines = batch[:0], 0
		return nil
	}
	for r, err := range m.From.Export(ctx, c.Kind) {
		if err != nil {
			return fmt.Errorf("read %s from the source: %w", c.Kind, err)
		}
		batch = append(batch, r)
		if e, ok := r.(Execution); ok {
			for _, chunk := range e.Logs {
				lines += len(chunk.Lines)
			}
		}
		if len(batch) >= maxBatch || lines >= maxLines {
			if err := flush(); err != nil {
				return err
			}
		}
		if read++; read%tellEach == 0 {
			m.tell("copying %s: %d of %d", c.Kind, read, c.Source)
		}
	}
	if len(batch) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	m.tell("copied %d %s", c.Copied, c.Kind)
	return nil
}

// findings are records that are not as they should be: how many, and the first
// few in words.
type findings struct {
	total int
	told  []string
}

func (f *findings) note(kind Kind, r Record, what string) {
	if f.total++; len(f.told) < maxTold {
		f.told = append(f.told, fmt.Sprintf("%s %q %s", strings.TrimSuffix(string(kind), "s"), strings.ReplaceAll(r.Key(), "\x00", " "), what))
	}
}

func (f *findings) add(o findings) {
	f.total += o.total
	f.told = append(f.told, o.told[:min(len(o.told), maxTold-len(f.told))]...)
}

func (f *findings) String() string {
	text := strings.Join(f.told, "; ")
	if more := f.total - len(f.told); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// comparison is how the records of a kind compare.
type comparison struct {
	source, equal int
	missing       findings // in the target
	foreign       findings // in the target, but not as in the source
}

// derived is the field that some stores derive from records of a later kind: in
// a move that was interrupted it need not be right yet.
const derived = "LastRunAt"

// compare walks through both sides at once. It leaves out one field, if any.
func compare(ctx context.Context, from, to Store, kind Kind, but string) (c comparison, err error) {
	source, target := pull("source", kind, from.Export(ctx, kind)), pull("target", kind, to.Export(ctx, kind))
	defer source.stop()
	defer target.stop()
	a, err := source.next()
	if err != nil {
		return c, err
	}
	b, err := target.next()
	if err != nil {
		return c, err
	}
	for a != nil || b != nil {
		var which int
		switch {
		case b == nil:
			which = -1
		case a == nil:
			which = 1
		default:
			which = strings.Compare(a.Key(), b.Key())
		}
		switch {
		case which < 0:
			c.source++
			c.missing.note(kind, a, "is not in the target")
		case which > 0:
			c.foreign.note(kind, b, "is not in the source")
		default:
			c.source++
			fields, err := differences(a, b, but)
			if err != nil {
				return c, fmt.Errorf("compare %s %q: %w", kind, a.Key(), err)
			}
			if len(fields) == 0 {
				c.equal++
			} else {
				c.foreign.note(kind, b, "differs in "+strings.Join(fields, ", "))
			}
		}
		if which <= 0 {
			if a, err = source.next(); err != nil {
				return c, err
			}
		}
		if which >= 0 {
			if b, err = target.next(); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// side is one side of a comparison.
type side struct {
	name string
	kind Kind
	pull func() (Record, error, bool)
	stop func()
	last Record
}

func pull(name string, kind Kind, records iter.Seq2[Record, error]) *side {
	s := &side{name: name, kind: kind}
	s.pull, s.stop = iter.Pull2(records)
	return s
}

// next returns the next record, nil at the end. That they come in order is what
// the comparison rests on, so it is checked.
func (s *side) next() (Record, error) {
	r, err, more := s.pull()
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s from the %s: %w", s.kind, s.name, err)
	case !more:
		return nil, nil
	case s.last != nil && r.Key() <= s.last.Key():
		return nil, fmt.Errorf("read %s from the %s: %q comes after %q", s.kind, s.name, r.Key(), s.last.Key())
	}
	s.last = r
	return r, nil
}

// differences names the fields but one in which two records differ. The order and the
// spacing within JSON that people gave do not count.
func differences(a, b Record, but string) ([]string, error) {
	left, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	right, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(left, right) {
		return nil, nil
	}
	lefts, err := fields(left)
	if err != nil {
		return nil, err
	}
	rights, err := fields(right)
	if err != nil {
		return nil, err
	}
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(lefts)) {
		if name != but && !reflect.DeepEqual(lefts[name], rights[name]) {
			differ = append(differ, name)
		}
	}
	return differ, nil
}

// fields reads an object without losing a digit of its numbers.
func fields(text []byte) (m map[string]any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return m, decoder.Decode(&m)
}

// replicas are the registries on both stores, with their beats.
type replicas map[string]int64

func (m *Move) replicas(ctx context.Context) (replicas, map[string]string, error) {
	beats, names := replicas{}, map[string]string{}
	for _, s := range []struct {
		name string
		Store
	}{{"source", m.From}, {"target", m.To}} {
		all, err := s.Replicas(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("look for registries on the %s: %w", s.name, err)
		}
		for _, r := range all {
			beats[s.name+r.ID] = r.Count
			names[s.name+r.ID] = fmt.Sprintf("%s (%s) on the %s", r.Name, r.ID, s.name)
		}
	}
	return beats, names, nil
}

// idle returns the registries that there are, none of which lives. Clocks of
// other machines are not asked: who lives, beats.
func (m *Move) idle(ctx context.Context) (replicas, error) {
	before, _, err := m.replicas(ctx)
	if err != nil || len(before) == 0 {
		return before, err
	}
	m.tell("waiting to see whether %d registries that are known still live", len(before))
	if err := m.Settle(ctx); err != nil {
		return nil, err
	}
	return before, m.stillIdle(ctx, before)
}

// stillIdle returns an error that wraps ErrInUse if a registry has beaten since.
func (m *Move) stillIdle(ctx context.Context, before replicas) error {
	now, names, err := m.replicas(ctx)
	if err != nil {
		return err
	}
	var alive []string
	for id, beat := range now {
		if was, known := before[id]; !known || beat != was {
			alive = append(alive, names[id])
		}
	}
	if len(alive) == 0 {
		return nil
	}
	slices.Sort(alive)
	return fmt.Errorf("%w: %s; stop the registries of both stores, then try again", ErrInUse, strings.Join(alive, ", "))
}
