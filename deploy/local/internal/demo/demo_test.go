package demo

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestStep(t *testing.T) {
	var out strings.Builder
	d := &demo{out: &out}
	ctx, cancel := context.WithCancel(t.Context())
	if err := d.step(ctx, func(d *demo, _ context.Context) error {
		d.check(true, "one is one")
		d.check(false, "one is two")
		return errors.New("no three")
	}); err != nil {
		t.Errorf("what goes wrong ends the whole: %v", err)
	}
	want := "  ok    one is one\n  FAIL  one is two\n  FAIL  it could not go on: no three\n"
	if out.String() != want || d.checks != 3 || d.failed != 2 {
		t.Errorf("%d of %d failed:\n%s", d.failed, d.checks, &out)
	}
	err := d.step(ctx, func(_ *demo, limited context.Context) error {
		if _, bounded := limited.Deadline(); !bounded {
			t.Error("the step has no time limit")
		}
		cancel()
		return limited.Err()
	})
	if !errors.Is(err, context.Canceled) || d.checks != 3 {
		t.Errorf("the end in the middle: %v, %d checks", err, d.checks)
	}
}

func TestTableCells(t *testing.T) {
	const page = `<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>T</title></head><body><p>no cell</p>
<table><tr><th>head</th></tr><tr><td>a &amp; b</td><td class="number">7</td></tr></table></body></html>`
	cells, err := tableCells([]byte(page))
	if got := slices.Sorted(maps.Keys(cells)); err != nil || !slices.Equal(got, []string{"7", "a & b"}) {
		t.Errorf("cells %q, %v", got, err)
	}
	for _, broken := range []string{
		strings.Replace(page, "</td></tr></table>", "</tr></table>", 1),
		strings.Replace(page, "&amp;", "&", 1),
		page[:len(page)-20],
	} {
		if _, err := tableCells([]byte(broken)); err == nil {
			t.Errorf("this opens:\n%s", broken)
		}
	}
}
