// Package control lets tests set the proxy's faults over HTTP:
//
//	POST   /faults            sets a proxy.Fault, given as JSON: {"id": 1}
//	GET    /faults            lists them with their counters: {"faults": [...]}
//	GET    /faults/1?fired=2  waits until the fault has fired twice, and returns it
//	DELETE /faults/1          removes it; messages that it delays go on
//	DELETE /faults            removes all
//
// Errors are {"error": "..."}.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"github.com/almanac-scheduler/almanac/deploy/standin/internal/proxy"
)

// CheckAddress returns an error unless the host:port is on the loopback interface: whoever reaches it can
// make the stand-in forget and fail.
func CheckAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is no host:port: %w", address, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not on the loopback interface: use 127.0.0.1, [::1] or localhost", address)
	}
	return nil
}

// maxBytes bounds a request.
const maxBytes = 64 << 10

// Handler serves the control of the faults.
func Handler(faults *proxy.Faults) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		var fault proxy.Fault
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBytes))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&fault); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("the body is no fault: %w", err))
			return
		}
		id, err := faults.Set(fault)
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		reply(w, http.StatusCreated, map[string]int{"id": id})
	})
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string][]proxy.Counted{"faults": faults.List()})
	})
	mux.HandleFunc("GET /faults/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, fired, err := numbers(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		counted, err := faults.Await(r.Context(), id, fired)
		if err != nil {
			refuse(w, http.StatusNotFound, err)
			return
		}
		reply(w, http.StatusOK, counted)
	})
	mux.HandleFunc("DELETE /faults/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, _, err := numbers(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		if err := faults.Remove(id); err != nil {
			refuse(w, http.StatusNotFound, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		faults.Clear()
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// numbers reads the fault's number and how often it shall have fired, 0 when that is not given.
func numbers(r *http.Request) (id, fired int, err error) {
	if id, err = strconv.Atoi(r.PathValue("id")); err != nil {
		return 0, 0, fmt.Errorf("fault %q is no number", r.PathValue("id"))
	}
	if text := r.URL.Query().Get("fired"); text != "" {
		if fired, err = strconv.Atoi(text); err != nil {
			return 0, 0, fmt.Errorf("fired %q is no number", text)
		}
	}
	return id, fired, nil
}

func refuse(w http.ResponseWriter, status int, err error) {
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		status = http.StatusRequestEntityTooLarge
	}
	reply(w, status, map[string]string{"error": err.Error()})
}

func reply(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(content) // a client that is gone needs no answer
}
