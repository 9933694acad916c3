package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"

	"k8s.io/client-go/rest"
)

// applyServers replaces the configured API server by the given ones.
func applyServers(config *rest.Config, servers []string, log *slog.Logger) error {
	if len(servers) == 0 {
		return nil
	}
	parsed := make([]*url.URL, 0, len(servers))
	for _, server := range servers {
		u, err := url.Parse(server)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" && u.Path != "/" {
			return fmt.Errorf("API server %q: write a URL without a path, as https://192.0.2.10:6443", server)
		}
		parsed = append(parsed, u)
	}
	config.Host = parsed[0].Scheme + "://" + parsed[0].Host
	if len(parsed) > 1 {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return &failover{next: next, servers: parsed, log: log}
		})
	}
	return nil
}

// failover sends each request to the server that answered last; when that one
// can't be connected to, the next is tried. A request that was sent is never
// sent again.
type failover struct {
	next    http.RoundTripper
	servers []*url.URL
	current atomic.Int64
	log     *slog.Logger
}

// RoundTrip implements http.RoundTripper.
func (f *failover) RoundTrip(request *http.Request) (*http.Response, error) {
	first := f.current.Load()
	var failures []error
	for i := range int64(len(f.servers)) {
		index := (first + i) % int64(len(f.servers))
		attempt, err := f.redirect(request, f.servers[index], i > 0)
		if err != nil {
			return nil, err
		}
		response, err := f.next.RoundTrip(attempt)
		if err == nil {
			if i > 0 && f.current.CompareAndSwap(first, index) {
				f.log.Info("another API server is used", "server", f.servers[index].Host)
			}
			return response, nil
		}
		failures = append(failures, err)
		if !neverSent(err) {
			break
		}
		if request.Context().Err() != nil {
			// No time is left for the next server now; the next request begins there.
			f.current.CompareAndSwap(first, (index+1)%int64(len(f.servers)))
			break
		}
	}
	return nil, errors.Join(failures...)
}

// redirect copies the request for another server, with a fresh body if it is
// not the first attempt.
func (f *failover) redirect(request *http.Request, server *url.URL, again bool) (*http.Request, error) {
	attempt := request.Clone(request.Context())
	attempt.URL.Scheme, attempt.URL.Host, attempt.Host = server.Scheme, server.Host, ""
	if !again || request.Body == nil || request.Body == http.NoBody {
		return attempt, nil
	}
	if request.GetBody == nil {
		return nil, fmt.Errorf("%s %s: the body can't be sent to another API server", request.Method, request.URL.Path)
	}
	body, err := request.GetBody()
	attempt.Body = body
	return attempt, err
}

// neverSent says that no connection came about.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
