package telemetry

import (
	"runtime/debug"
	"testing"
)

func TestCollectLessOftenLeavesTheOperatorsWord(t *testing.T) {
	before := debug.SetGCPercent(123)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "123")
	CollectLessOften()
	if got := debug.SetGCPercent(123); got != 123 {
		t.Errorf("GOGC of 123 became %d", got)
	}
	t.Setenv("GOGC", "")
	CollectLessOften()
	if got := debug.SetGCPercent(123); got != 400 {
		t.Errorf("without GOGC it is %d", got)
	}
}
