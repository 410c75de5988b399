package builtin

import (
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

const (
	pathParam   = "path"
	defaultPath = "{job}/{datetime}.{ext}"
	maxSlug     = 60 // bytes
)

// pathParts are what a path may have in braces. They follow from the execution,
// never from the clock, so that a retry writes the same object again.
var pathParts = []struct {
	name string
	of   func(run *template.Run, ext string) string
}{
	{"job", func(run *template.Run, _ string) string { return jobSlug(run) }},
	{"job_id", func(run *template.Run, _ string) string { return run.JobID }},
	{"execution_id", func(run *template.Run, _ string) string { return run.ExecutionID }},
	{"date", timePart(time.DateOnly)},
	{"time", timePart("150405")},
	// With the offset, for an hour that clocks show twice.
	{"datetime", timePart("2006-01-02T150405Z0700")},
	{"year", timePart("2006")},
	{"month", timePart("01")},
	{"day", timePart("02")},
	{"hour", timePart("15")},
	{"minute", timePart("04")},
	{"ext", func(_ *template.Run, ext string) string { return ext }},
}

func timePart(layout string) func(*template.Run, string) string {
	return func(run *template.Run, _ string) string { return run.ScheduledFor.In(zoneOf(run)).Format(layout) }
}

// zoneOf returns the job's zone.
func zoneOf(run *template.Run) *time.Location {
	if run.Zone == nil {
		return time.UTC
	}
	return run.Zone
}

var pathPart = regexp.MustCompile(`\{[^{}]*\}`)

func pathSchema() map[string]any {
	return map[string]any{
		"type": "string",
		"description": "Name of the object in the destination; {job}, {job_id}, {execution_id} and {ext} stand for those, " +
			"{date}, {time}, {datetime}, {year}, {month}, {day}, {hour} and {minute} for the scheduled time in the job's zone. " +
			"An object of that name is replaced, so a retry leaves one object",
		"minLength": 1,
		"maxLength": 300,
		"default":   defaultPath,
		"examples":  []any{"users/{date}.{ext}"},
	}
}

// destinationSchema is that of the parameter that names the bucket. What
// completes "Name of the bucket ...".
func destinationSchema(what string) map[string]any {
	return map[string]any{
		"type":        "string",
		"description": "Name of the bucket " + what + "; needed only when the executor has several",
		"minLength":   1,
	}
}

// objectPath returns the name of the object that a run writes. The error is a
// *template.ParamsError.
func objectPath(params map[string]any, run *template.Run, ext string) (string, error) {
	pattern, ok := params[pathParam].(string)
	if !ok {
		pattern = defaultPath
	}
	var unknown string
	name := pathPart.ReplaceAllStringFunc(pattern, func(braced string) string {
		for _, part := range pathParts {
			if braced == "{"+part.name+"}" {
				return part.of(run, ext)
			}
		}
		unknown = braced
		return braced
	})
	if unknown == "" && strings.ContainsAny(name, "{}") {
		unknown = "a single brace"
	}
	if unknown != "" {
		known := make([]string, len(pathParts))
		for i, part := range pathParts {
			known[i] = "{" + part.name + "}"
		}
		return "", template.BadParam(pathParam, "has %s, which is not known: use %s", unknown, strings.Join(known, ", "))
	}
	if problem := checkObjectName(name); problem != "" {
		return "", template.BadParam(pathParam, "%s", problem)
	}
	if strings.HasSuffix(name, "/") {
		return "", template.BadParam(pathParam, "must name an object, not a folder: drop the / at its end, or add {datetime}.{ext}")
	}
	return name, nil
}

// jobSlug makes a name for a folder from the job's. Where that leaves out more
// than spaces and capitals, a part of the job's id keeps similar names apart.
func jobSlug(run *template.Run) string {
	plain := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(run.JobName)), " ", "-")
	slug := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, plain)
	if len(slug) > maxSlug {
		slug = strings.ToValidUTF8(slug[:maxSlug], "")
	}
	slug = strings.Trim(slug, "-")
	if slug == plain && slug != "" {
		return slug
	}
	id := run.JobID[max(0, len(run.JobID)-8):]
	return strings.Trim(slug+"-"+id, "-")
}
