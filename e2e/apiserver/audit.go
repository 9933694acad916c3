package apiserver

import (
	"bufio"
	"cmp"
	"encoding/json"
	"os"
)

// Call is one request for our group, as the audit log has it.
type Call struct {
	// Verb is get, list, watch, create, update, patch or delete.
	Verb string
	// Resource, with "/status" if it was for that.
	Resource string
	Name     string
	// Code is the HTTP status.
	Code int
	// URI with the query.
	URI string
	// User that asked.
	User string
}

// Calls are all requests that have been answered so far.
func (s *Server) Calls() ([]Call, error) {
	file, err := os.Open(s.AuditLog)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var calls []Call
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Verb       string    `json:"verb"`
			RequestURI string    `json:"requestURI"`
			User       auditUser `json:"user"`
			// As is set when the one spoke in another's name.
			As        auditUser `json:"impersonatedUser"`
			ObjectRef struct {
				Resource    string `json:"resource"`
				Subresource string `json:"subresource"`
				Name        string `json:"name"`
			} `json:"objectRef"`
			ResponseStatus struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, err
		}
		resource := event.ObjectRef.Resource
		if event.ObjectRef.Subresource != "" {
			resource += "/" + event.ObjectRef.Subresource
		}
		calls = append(calls, Call{
			Verb: event.Verb, Resource: resource, Name: event.ObjectRef.Name,
			Code: event.ResponseStatus.Code, URI: event.RequestURI, User: cmp.Or(event.As.Username, event.User.Username),
		})
	}
	return calls, lines.Err()
}

type auditUser struct {
	Username string `json:"username"`
}
