package kube

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
)

// reach knows whether the last request had an answer, whatever it said. The
// informers can't tell: client-go repeats a watch that times out up to ten
// times, and then hides the error.
type reach struct {
	log *slog.Logger

	mu      sync.Mutex
	failure error
	changed []func()
}

// wrap is the transport with its outcomes noted.
func (r *reach) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		if err == nil || !errors.Is(request.Context().Err(), context.Canceled) {
			r.note(err)
		}
		return response, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func (r *reach) note(err error) {
	r.mu.Lock()
	was := r.failure
	r.failure = err
	changed := r.changed
	r.mu.Unlock()
	if (was == nil) == (err == nil) {
		return
	}
	if err != nil {
		r.log.Warn("the API server doesn't answer; it is tried again", "error", err)
	} else {
		r.log.Info("the API server answers again")
	}
	for _, call := range changed {
		call()
	}
}

// onChange adds a function that is called when answers begin or end.
func (r *reach) onChange(call func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = append(r.changed, call)
}

// away says that the last request had no answer.
func (r *reach) away() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}
