package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// ErrNoFault means that no fault of this number is set.
var ErrNoFault = errors.New("no such fault")

// Action is what a fault does to a message.
type Action string

// The actions. "Before" is before the server sees the request; "after" is when it has carried it out, so
// that only the answer is concerned.
const (
	CutBefore   Action = "cut_before"   // close the client's connection; nothing happened
	CutAfter    Action = "cut_after"    // close the client's connection; it happened, but the answer is lost
	DelayBefore Action = "delay_before" // let others pass meanwhile
	DelayAfter  Action = "delay_after"  // let others pass meanwhile
	Refuse      Action = "refuse"       // answer with a server's error; nothing happened
)

// AnyCommand matches every command.
const AnyCommand = "any"

// Fault says what happens to which of the messages that pass. Empty selectors select all. Of several
// faults that select a message the one that was set first acts.
type Fault struct {
	// Command is the command's name, such as update, or AnyCommand.
	Command string `json:"command"`
	// Database and Collection are what the command is for.
	Database   string `json:"database,omitempty"`
	Collection string `json:"collection,omitempty"`
	// Contains is a text that stands somewhere in the message, such as a document's id.
	Contains string `json:"contains,omitempty"`

	Action Action `json:"action"`
	// DelayMS is how long, in milliseconds, the delaying actions take, unless the fault is removed before.
	DelayMS int `json:"delay_ms,omitempty"`
	// Code is the server's error code that Refuse answers with, such as 189 (PrimarySteppedDown).
	Code int32 `json:"code,omitempty"`

	// Skip is how many of the selected messages pass at first.
	Skip int `json:"skip,omitempty"`
	// Count is after how many times the fault is spent; 0 means never.
	Count int `json:"count,omitempty"`
	// Probability, above 0 and at most 1, is that of acting on a selected message; 0 means always.
	Probability float64 `json:"probability,omitempty"`
	// Seed makes the same choices for the same messages in the same order.
	Seed uint64 `json:"seed,omitempty"`
}

// Counted is a fault that is set, and how often it was of effect.
type Counted struct {
	ID int `json:"id"`
	Fault
	Selected int `json:"selected"` // messages that its selectors matched
	Fired    int `json:"fired"`    // messages that it acted on
}

// Faults are the faults that are set, in the order of setting. The zero value has none. It is safe for
// concurrent use.
type Faults struct {
	mutex sync.Mutex
	last  int
	set   []*active
}

type active struct {
	Counted
	random  *rand.Rand
	removed chan struct{} // closed then
	fired   chan struct{} // closed, and replaced, whenever it fires
}

// Set adds a fault and returns its number. The error names the field that is wrong, and how.
func (f *Faults) Set(fault Fault) (id int, err error) {
	if err := fault.check(); err != nil {
		return 0, err
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.last++
	f.set = append(f.set, &active{
		Counted: Counted{ID: f.last, Fault: fault},
		random:  rand.New(rand.NewPCG(fault.Seed, 0)),
		removed: make(chan struct{}),
		fired:   make(chan struct{}),
	})
	return f.last, nil
}

func (f *Fault) check() error {
	delays := f.Action == DelayBefore || f.Action == DelayAfter
	switch {
	case f.Command == "":
		return errors.New(`command is missing: name one, such as update, or "any"`)
	case !slices.Contains([]Action{CutBefore, CutAfter, DelayBefore, DelayAfter, Refuse}, f.Action):
		return fmt.Errorf("action %q is none of cut_before, cut_after, delay_before, delay_after, refuse", f.Action)
	case delays != (f.DelayMS > 0):
		return errors.New("delay_ms goes with delay_before and delay_after, where it is above 0")
	case (f.Action == Refuse) != (f.Code > 0):
		return errors.New("code goes with refuse, where it is above 0, such as 189 (PrimarySteppedDown)")
	case f.Skip < 0 || f.Count < 0:
		return errors.New("skip and count are at least 0")
	case !(f.Probability >= 0 && f.Probability <= 1):
		return errors.New("probability is between 0 and 1; 0 means always")
	}
	return nil
}

// List returns the faults that are set, spent ones included.
func (f *Faults) List() []Counted {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	list := make([]Counted, 0, len(f.set))
	for _, a := range f.set {
		list = append(list, a.Counted)
	}
	return list
}

// Await returns the fault once it has fired at least n times. Errors: ErrNoFault, also when it is removed
// meanwhile; ctx's.
func (f *Faults) Await(ctx context.Context, id, n int) (Counted, error) {
	for {
		f.mutex.Lock()
		i := slices.IndexFunc(f.set, func(a *active) bool { return a.ID == id })
		if i < 0 {
			f.mutex.Unlock()
			return Counted{}, fmt.Errorf("%w: %d", ErrNoFault, id)
		}
		now, fired, removed := f.set[i].Counted, f.set[i].fired, f.set[i].removed
		f.mutex.Unlock()
		if now.Fired >= n {
			return now, nil
		}
		select {
		case <-fired:
		case <-removed:
		case <-ctx.Done():
			return Counted{}, ctx.Err()
		}
	}
}

// Remove takes a fault away; messages that it delays go on at once. It returns ErrNoFault when there is
// none of this number.
func (f *Faults) Remove(id int) error {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	i := slices.IndexFunc(f.set, func(a *active) bool { return a.ID == id })
	if i < 0 {
		return fmt.Errorf("%w: %d", ErrNoFault, id)
	}
	close(f.set[i].removed)
	f.set = slices.Delete(f.set, i, i+1)
	return nil
}

// Clear removes all faults.
func (f *Faults) Clear() {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for _, a := range f.set {
		close(a.removed)
	}
	f.set = nil
}

// strike is what a fault does to one message.
type strike struct {
	action  Action
	delay   time.Duration
	code    int32
	removed <-chan struct{}
}

// choose returns what happens to a request; a nil strike lets it pass.
func (f *Faults) choose(request message) *strike {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for _, a := range f.set {
		if !a.selects(request) {
			continue
		}
		a.Selected++
		if a.Selected <= a.Skip || a.Count > 0 && a.Fired >= a.Count || a.Probability > 0 && a.random.Float64() >= a.Probability {
			continue
		}
		a.Fired++
		close(a.fired)
		a.fired = make(chan struct{})
		return &strike{a.Action, time.Duration(a.DelayMS) * time.Millisecond, a.Code, a.removed}
	}
	return nil
}

func (f *Fault) selects(m message) bool {
	if m.opcode() != opMsg {
		// The legacy greeting: it names nothing, and its answer has another form.
		return f.Command == AnyCommand && f.Database+f.Collection+f.Contains == "" && f.Action != Refuse
	}
	if f.Command != AnyCommand && f.Command != m.command() {
		return false
	}
	if f.Database != "" || f.Collection != "" {
		database, collection := m.target()
		if f.Database != "" && f.Database != database || f.Collection != "" && f.Collection != collection {
			return false
		}
	}
	return bytes.Contains(m, []byte(f.Contains))
}

// wait takes the delay, unless the fault is removed or ctx ends before.
func (s *strike) wait(ctx context.Context) {
	timer := time.NewTimer(s.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.removed:
	case <-ctx.Done():
	}
}
