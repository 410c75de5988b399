package api

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/almanac-scheduler/almanac/proto"
)

func serveText(contentType string, text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text)
	}
}

// serveReadiness answers 503 with reasons until the registry can take work.
func (s *Server) serveReadiness(w http.ResponseWriter, r *http.Request) {
	answer := struct {
		Ready   bool     `json:"ready"`
		Reasons []string `json:"reasons"`
	}{}
	answer.Reasons, _ = s.notReady(r.Context())
	answer.Ready = len(answer.Reasons) == 0
	if answer.Ready {
		answer.Reasons = []string{}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !answer.Ready {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(body, '\n'))
}

// openAPI is the generated document, completed by what the generator cannot
// know: the title, the token, the statuses, and the headers that stand for
// fields of the request.
func openAPI() ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(proto.OpenAPI, &doc); err != nil {
		return nil, fmt.Errorf("read the generated API document: %w", err)
	}
	doc["info"] = map[string]any{
		"title": "Almanac", "version": "1", "description": "A registry of scheduled jobs. Errors are google.rpc.Status objects.",
	}
	doc["basePath"] = "/"
	doc["schemes"] = []string{"https", "http"}
	doc["securityDefinitions"] = map[string]any{
		"bearer": map[string]any{"type": "apiKey", "in": "header", "name": "Authorization", "description": "Bearer <token>; POST /api/auth/login gives one."},
	}
	// A browser's cookie does as well; OpenAPI 2.0 has no words for it.
	doc["security"] = []any{map[string]any{"bearer": []any{}}}
	if tags, ok := doc["tags"].([]any); ok {
		var kept []any
		for _, t := range tags {
			if tag, _ := t.(map[string]any); tag["name"] != "LeaseService" { // it has no REST route
				kept = append(kept, t)
			}
		}
		doc["tags"] = kept
	}
	all, err := routes()
	if err != nil {
		return nil, err
	}
	paths, _ := doc["paths"].(map[string]any)
	for _, r := range all {
		path, _ := paths[r.pattern].(map[string]any)
		operation, ok := path[lower[r.httpMethod]].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("the API document lacks %s %s: generate it again", r.httpMethod, r.pattern)
		}
		completeOperation(r, operation)
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the API document: %w", err)
	}
	return append(out, '\n'), nil
}

var lower = map[string]string{http.MethodGet: "get", http.MethodPost: "post", http.MethodPut: "put", http.MethodDelete: "delete"}

func completeOperation(r route, operation map[string]any) {
	if r.stream {
		operation["produces"] = []string{contentTypeLines, "application/json"}
	}
	parameters, _ := operation["parameters"].([]any)
	var kept []any
	for _, p := range parameters {
		if m, _ := p.(map[string]any); m["in"] != "query" || r.httpMethod == http.MethodGet {
			kept = append(kept, p)
		}
	}
	header := func(name, description string) {
		kept = append(kept, map[string]any{"name": name, "in": "header", "required": false, "type": "string", "description": description})
	}
	bodyless := func() {
		for _, p := range kept {
			if m, _ := p.(map[string]any); m["in"] == "body" {
				m["required"] = false
			}
		}
	}
	success := func(code string) {
		if responses, ok := operation["responses"].(map[string]any); ok {
			responses[code] = responses["200"]
			delete(responses, "200")
		}
	}
	switch r.rpc {
	case "/almanac.v1.AuthService/LogIn", "/almanac.v1.AuthService/StartSession":
		operation["security"] = []any{}
	case "/almanac.v1.AuthService/CreateToken", "/almanac.v1.UserService/AddUser":
		success("201")
	case "/almanac.v1.JobService/CreateJob":
		header("Idempotency-Key", "Repeating a request with the same key returns the first one's answer.")
		success("201")
	case "/almanac.v1.JobService/RunJob":
		header("Idempotency-Key", "Repeating a request with the same key returns the first one's answer.")
		header("If-Match", "The quoted version that the job must have, such as \"3\".")
		bodyless()
		success("202")
	case "/almanac.v1.JobService/TryJob":
		success("202")
	case "/almanac.v1.ExecutionService/CancelExecution", "/almanac.v1.WorkerService/DrainWorker", "/almanac.v1.WorkerService/ResumeWorker":
		bodyless()
	case "/almanac.v1.JobService/UpdateJob", "/almanac.v1.JobService/DeleteJob":
		header("If-Match", "The quoted version that the job must have, such as \"3\".")
	}
	operation["parameters"] = kept
	if kept == nil {
		delete(operation, "parameters")
	}
}
