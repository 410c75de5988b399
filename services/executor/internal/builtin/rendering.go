package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"math"
	"strings"
	"text/template"
	tree "text/template/parse"
	"time"

	sdk "github.com/almanac-scheduler/almanac/pkg/template"
)

// view is what the Go templates in parameters see of a run.
type view struct {
	JobID        string
	JobName      string
	ExecutionID  string
	Organisation string
	TriggeredBy  string
	Attempt      int
	ScheduledFor instant // in the job's zone
	Data         map[string]any
}

// viewOf shows a run and its free-form data.
func viewOf(run *sdk.Run, data map[string]any) view {
	return view{
		JobID: run.JobID, JobName: run.JobName, ExecutionID: run.ExecutionID, Organisation: run.Organisation,
		TriggeredBy: run.TriggeredBy, Attempt: run.Attempt, ScheduledFor: instant{run.ScheduledFor.In(run.Zone)}, Data: wholeNumbers(data),
	}
}

// instant is a time that prints as RFC 3339; its methods, such as Format and
// Unix, are those of time.Time.
type instant struct{ time.Time }

// String returns the time as RFC 3339.
func (i instant) String() string { return i.Format(time.RFC3339) }

// renderingFuncs are what templates may call beside Go's own functions.
func renderingFuncs() map[string]any {
	return map[string]any{
		"json":  jsonText,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"trim":  strings.TrimSpace,
	}
}

// jsonText returns a value as JSON, without a line's end.
func jsonText(v any) (string, error) {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false) // it is not for a web page
	if err := encoder.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// wholeNumbers returns a copy of JSON values in which whole numbers are integers,
// so that a million prints as 1000000 and compares with one.
func wholeNumbers(data map[string]any) map[string]any {
	copied := make(map[string]any, len(data))
	for key, v := range data {
		copied[key] = wholeNumber(v)
	}
	return copied
}

func wholeNumber(v any) any {
	switch v := v.(type) {
	case float64:
		if v == math.Trunc(v) && math.Abs(v) <= 1<<53 {
			return int64(v)
		}
	case map[string]any:
		return wholeNumbers(v)
	case []any:
		copied := make([]any, len(v))
		for i := range v {
			copied[i] = wholeNumber(v[i])
		}
		return copied
	}
	return v
}

// parseBodyText parses a Go template in which a missing key of the data is an error;
// {{with index .Data "key"}} asks for one that may be missing.
func parseBodyText(text string) (*template.Template, error) {
	parsed, err := template.New("template").Funcs(renderingFuncs()).Funcs(repetition{}.funcs()).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, renderingError(err)
	}
	return parsed, nil
}

// parseHTML parses a Go template of a web page: whatever it shows is escaped for
// its place there. What is missing from the data shows as nothing.
func parseHTML(text string) (*htmltemplate.Template, error) {
	parsed, err := htmltemplate.New("template").Funcs(renderingFuncs()).Funcs(repetition{}.funcs()).Parse(text)
	if err != nil {
		return nil, renderingError(err)
	}
	return parsed, nil
}

// renderBodyText parses and executes a template over a view. It fails when the
// outcome has more than most bytes or takes too many steps, and ends with ctx.
func renderBodyText(ctx context.Context, text string, v any, most int) (string, error) {
	if !strings.Contains(text, "{{") {
		return bounded(text, most)
	}
	parsed, err := parseBodyText(text)
	if err != nil {
		return "", err
	}
	return executeText(ctx, parsed, v, most)
}

// renderLenient does as renderBodyText, but shows what is missing from the data as
// nothing.
func renderLenient(ctx context.Context, text string, v any, most int) (string, error) {
	if !strings.Contains(text, "{{") {
		return bounded(text, most)
	}
	parsed, err := parseBodyText(text)
	if err != nil {
		return "", err
	}
	parsed.Option("missingkey=default")
	for _, t := range parsed.Templates() {
		if t.Tree != nil {
			hideNothing(t.Root)
		}
	}
	return executeText(ctx, parsed, v, most)
}

func executeText(ctx context.Context, parsed *template.Template, v any, most int) (string, error) {
	for _, t := range parsed.Templates() {
		if t.Tree != nil {
			countSteps(t.Root)
		}
	}
	parsed.Funcs(repetition{ctx, maxSteps}.funcs())
	return collect(ctx, most, func(out *boundedText) error { return parsed.Execute(out, v) })
}

// renderHTML does as renderLenient for a web page.
func renderHTML(ctx context.Context, text string, v any, most int) (string, error) {
	parsed, err := parseHTML(text)
	if err != nil {
		return "", err
	}
	for _, t := range parsed.Templates() {
		if t.Tree != nil {
			countSteps(t.Tree.Root)
		}
	}
	parsed.Funcs(repetition{ctx, maxSteps}.funcs())
	return collect(ctx, most, func(out *boundedText) error { return parsed.Execute(out, v) })
}

func bounded(text string, most int) (string, error) {
	if len(text) > most {
		return "", fmt.Errorf("the outcome is too long: %d bytes, but at most %d are permitted", len(text), most)
	}
	return text, nil
}

func collect(ctx context.Context, most int, execute func(*boundedText) error) (string, error) {
	out := &boundedText{ctx: ctx, left: most}
	if err := execute(out); err != nil {
		if ended := ctx.Err(); ended != nil {
			return "", ended
		}
		return "", renderingError(err)
	}
	return out.text.String(), nil
}

// maxSteps is how often the loops and the named parts of a template may go round:
// a fraction of a second, and a stack of some ten megabytes when they call themselves.
const maxSteps = 50_000

var errSteps = errors.New("it takes too many steps: let it repeat less")

// repetition ends the execution of a template, of which Go's own knows no end.
type repetition struct {
	ctx  context.Context
	left int
}

const (
	stepFunc  = "_step"
	shownFunc = "_shown"
)

func (r repetition) funcs() map[string]any {
	return map[string]any{
		stepFunc: func() (bool, error) {
			if r.left--; r.left < 0 {
				return false, errSteps
			}
			return false, r.ctx.Err()
		},
		shownFunc: func(v any) any {
			if v == nil {
				return ""
			}
			return v
		},
	}
}

// eachList calls do for every list of nodes within a list, itself included, and
// tells which begin something that may be repeated.
func eachList(list *tree.ListNode, repeated bool, do func(list *tree.ListNode, repeated bool)) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *tree.RangeNode:
			eachList(n.List, true, do)
			eachList(n.ElseList, false, do)
		case *tree.IfNode:
			eachList(n.List, false, do)
			eachList(n.ElseList, false, do)
		case *tree.WithNode:
			eachList(n.List, false, do)
			eachList(n.ElseList, false, do)
		}
	}
	do(list, repeated)
}

// countSteps lets a tree call the step function wherever it can repeat itself: it
// adds {{if _step}}{{end}}, which writes nothing in any place.
func countSteps(root *tree.ListNode) {
	eachList(root, true, func(list *tree.ListNode, repeated bool) {
		if repeated {
			list.Nodes = append(snippet("{{if "+stepFunc+"}}{{end}}"), list.Nodes...)
		}
	})
}

// hideNothing passes whatever a tree shows through the shown function.
func hideNothing(root *tree.ListNode) {
	eachList(root, false, func(list *tree.ListNode, _ bool) {
		for _, node := range list.Nodes {
			if action, ok := node.(*tree.ActionNode); ok && len(action.Pipe.Decl) == 0 {
				call := snippet("{{" + shownFunc + " 0}}")[0].(*tree.ActionNode).Pipe.Cmds[0]
				call.Args = call.Args[:1]
				action.Pipe.Cmds = append(action.Pipe.Cmds, call)
			}
		}
	})
}

// snippet returns the nodes of a piece of template; the text is one of ours.
func snippet(text string) []tree.Node {
	trees, err := tree.Parse("ours", text, "", "", repetition{}.funcs())
	if err != nil {
		return nil
	}
	return trees["ours"].Root.Nodes
}

// renderingError leaves out of a template's error what its author did not write.
func renderingError(err error) error {
	if errors.Is(err, errSteps) {
		return fmt.Errorf("the template fails: %w", errSteps)
	}
	text := strings.TrimPrefix(err.Error(), "template: template:")
	if _, at, ok := strings.Cut(text, `executing "template" `); ok {
		text = at
	}
	return fmt.Errorf("the template fails: %s", text)
}

// boundedText collects what a template writes.
type boundedText struct {
	ctx  context.Context
	left int
	text strings.Builder
}

// Write fails when ctx has ended or the text becomes too long.
func (b *boundedText) Write(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) > b.left {
		return 0, fmt.Errorf("the outcome is too long: %d bytes more than permitted", len(p)-b.left)
	}
	b.left -= len(p)
	return b.text.Write(p)
}
