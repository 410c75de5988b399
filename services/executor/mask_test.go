package executor

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// gossip stands for a pool whose runs tell everything they know.
type gossip struct{ says string }

func (g gossip) Run(_ context.Context, run *runner.Run, report template.Reporter) (*runner.Result, []string) {
	report.Log("INFO", "using "+g.says)
	report.Progress(1, 2, g.says)
	text, _ := json.Marshal(map[string]any{"message": g.says, "n": 12345678901234567, g.says: []any{g.says, 1.50, nil, true}})
	return &runner.Result{Status: runner.StatusFailed, Error: "dial " + g.says, Result: text}, nil
}

type heard struct{ all []string }

func (h *heard) Log(level, message string) { h.all = append(h.all, level+" "+message) }
func (h *heard) Progress(done, total int64, message string) {
	h.all = append(h.all, fmt.Sprint(done, total, message))
}

func TestSecretsNeverLeaveTheExecutor(t *testing.T) {
	const uri = `smtp://u:hu%22sh&1234@mail`
	offered := offering{connections: map[string]template.Connection{"mail": {Kind: "smtp", URI: uri}}}
	offered.Descriptor.Connections, offered.Allowed = map[string]string{"server": "smtp"}, map[string][]string{"server": {"mail"}}
	for _, secret := range []string{uri, `hu%22sh&1234`, `hu"sh&1234`} {
		r := &router{offered: map[string]offering{"letter": offered}, pool: gossip{says: secret}}
		h := &heard{}
		result, _ := r.Run(t.Context(), &runner.Run{Template: "letter", Params: []byte(`{"server":"mail"}`)}, h)
		said := strings.Join(h.all, "\n") + result.Error + string(result.Result)
		if strings.Contains(said, "1234@") || strings.Contains(said, "sh&") || strings.Contains(said, `sh\u0026`) {
			t.Errorf("%s: the run gave it away: %s", secret, said)
		}
		if want := `{"***":["***",1.5,null,true],"message":"***","n":12345678901234567}`; string(result.Result) != want {
			t.Errorf("result %s, want %s", result.Result, want)
		}
		if want := "[INFO using *** 1 2***]"; fmt.Sprint(h.all) != want {
			t.Errorf("heard %v, want %v", h.all, want)
		}
		// Whoever has no such connection may say the same words.
		result, _ = r.Run(t.Context(), &runner.Run{Template: "letter", Params: []byte(`{}`)}, &heard{})
		if result.Error != "dial "+secret {
			t.Errorf("error %q, want it as it is", result.Error)
		}
	}
	// An empty result, and one that is not JSON, are left alone.
	m := newMask(offered.connections, &heard{})
	for _, text := range []string{"", "hush"} {
		r := &runner.Result{Result: json.RawMessage(text)}
		if m.result(r); string(r.Result) != text {
			t.Errorf("%q became %q", text, r.Result)
		}
	}
	m.result(nil)
}
