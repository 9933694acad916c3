package attach

import "errors"

// Every store of pods and network definitions wraps these, so that the daemon
// tells a lasting answer from a passing one without knowing the store.
var (
	// ErrNetworkNotFound says that a network definition certainly doesn't exist.
	ErrNetworkNotFound = errors.New("network definition not found")
	// ErrUnavailable says that the answer can't be had now; the caller should
	// try again later (CNI error 11).
	ErrUnavailable = errors.New("not available now")
	// ErrPodGone says that the pod doesn't exist any more.
	ErrPodGone = errors.New("pod is gone")
	// ErrPodReplaced says that another pod of the same name has taken its place.
	ErrPodReplaced = errors.New("pod replaced")
)
