package runner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimitedContext: it is like context.WithDeadline for whoever looks, however
// late, and for contexts made of it.
func TestLimitedContext(t *testing.T) {
	type key struct{}
	limited := func(t *testing.T) (*limitedContext, context.CancelFunc) {
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "mine"))
		c := &limitedContext{parent: parent, deadline: time.Now().Add(time.Minute)}
		t.Cleanup(func() { c.end(); cancel() })
		return c, cancel
	}
	for name, test := range map[string]func(t *testing.T){
		"its deadline passes": func(t *testing.T) {
			c, _ := limited(t)
			if at, ok := c.Deadline(); !ok || !at.Equal(time.Now().Add(time.Minute)) || c.Err() != nil || c.Value(key{}) != "mine" {
				t.Errorf("deadline %v %v, error %v, value %v", at, ok, c.Err(), c.Value(key{}))
			}
			began := time.Now()
			<-c.Done()
			if took := time.Since(began); took != time.Minute || !errors.Is(c.Err(), context.DeadlineExceeded) {
				t.Errorf("ended after %v: %v", took, c.Err())
			}
		},
		"it is looked at after its deadline": func(t *testing.T) {
			c, _ := limited(t)
			time.Sleep(time.Hour)
			if !errors.Is(c.Err(), context.DeadlineExceeded) {
				t.Error(c.Err())
			}
		},
		"its parent ends": func(t *testing.T) {
			c, cancel := limited(t)
			child, stop := context.WithCancel(c)
			defer stop()
			cancel()
			<-child.Done()
			if !errors.Is(c.Err(), context.Canceled) || !errors.Is(child.Err(), context.Canceled) {
				t.Errorf("%v, %v", c.Err(), child.Err())
			}
		},
		"a child sees its deadline": func(t *testing.T) {
			c, _ := limited(t)
			child, stop := context.WithCancel(c)
			defer stop()
			<-child.Done()
			if !errors.Is(child.Err(), context.DeadlineExceeded) {
				t.Error(child.Err())
			}
		},
		"it ends before anybody looked": func(t *testing.T) {
			c, cancel := limited(t)
			c.end()
			if c.Err() != nil {
				t.Errorf("%v although its parent goes on", c.Err())
			}
			cancel()
			<-c.Done()
		},
		"it ends while somebody waits": func(t *testing.T) {
			c, _ := limited(t)
			done := c.Done()
			c.end()
			<-done
			if !errors.Is(c.Err(), context.Canceled) {
				t.Error(c.Err())
			}
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}
