package main

import (
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// TestHello runs the suite that every template must pass.
func TestHello(t *testing.T) {
	templatetest.Run(t, hello{}, templatetest.Options{
		Valid:   []map[string]any{{"name": "Ada"}},
		Invalid: []templatetest.Invalid{{Params: map[string]any{"name": ""}, Field: "name"}},
		Succeed: []map[string]any{{"name": "Ada"}},
	})
}
