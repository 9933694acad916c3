// Package controller has the tests of the controller, and of the take-over from
// Whereabouts, on a real API server. Nodes are objects only: nobody is behind
// them. They carry the tag e2e and need no rights.
package controller
