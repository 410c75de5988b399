package system

import (
	"net/http"
	"path/filepath"
	"testing"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// TestHello runs the example of a template of one's own beside the shipped ones:
// one executor has the runner of the example, the other the usual one.
func TestHello(t *testing.T) {
	t.Parallel()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	r := boot(t, func(c *system.Config) {
		c.Each = map[string]map[string]any{"executor-2": {"runner": filepath.Join(bin, "hello")}}
	})
	greet := r.job("greet", "hello", rest.Object{"name": "Ada"}, nil)
	e := ended(t, r.super, run(t, r.super, greet), "success")
	if e.Result["message"] != "Hello, Ada" || value(e.ExecutionHost) != "executor-2" {
		t.Errorf("it tells %s", show(e))
	}
	shipped := r.job("shipped", "test_scheduler", nil, nil)
	if e = ended(t, r.super, run(t, r.super, shipped), "success"); value(e.ExecutionHost) != "executor-1" {
		t.Errorf("it tells %s", show(e))
	}
	_, err = r.super.CreateJob(t.Context(), rest.Object{"name": "nobody", "template_type": "hello", "parameters": rest.Object{"name": ""}, "schedule": rest.Object{"type": "manual"}})
	refused(t, err, http.StatusBadRequest)
}
