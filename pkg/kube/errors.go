package kube

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

var (
	// ErrNotFound says that a network definition certainly doesn't exist.
	ErrNotFound = attach.ErrNetworkNotFound
	// ErrUnavailable says that the API server can't answer now (CNI error 11).
	ErrUnavailable = attach.ErrUnavailable
	// ErrPodGone says that the pod doesn't exist any more.
	ErrPodGone = attach.ErrPodGone
	// ErrPodReplaced says that another pod of the same name has taken its place.
	ErrPodReplaced = attach.ErrPodReplaced

	errNoCRD = errors.New("the API server doesn't serve network-attachment-definitions.k8s.cni.cncf.io/v1: install that CustomResourceDefinition")
)

// withoutURL replaces a request's long URL by its host; two tries of one watch
// differ in their query, so the text would never repeat.
func withoutURL(err error) error {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return err
	}
	host := "the API server"
	if u, parseErr := url.Parse(failed.URL); parseErr == nil {
		host = "API server " + u.Host
	}
	return fmt.Errorf("%s: %w", host, failed.Err)
}

// isOtherUID says that a patch met a pod with another UID. The API server says
// "invalid, field is immutable" when it sees it first, and "conflict" when it
// loses a race.
func isOtherUID(err error) bool {
	if apierrors.IsConflict(err) {
		return true
	}
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool {
		return c.Field == "metadata.uid"
	})
}

// explain turns an error of the API machinery into one for an operator: what
// is missing and where to grant it. Every answer but a plain "not found" may
// change without the pod changing, so it is ErrUnavailable.
func explain(err error, verb, resource string) error {
	if err == nil {
		return nil
	}
	err = withoutURL(err)
	switch {
	case isMissingCRD(err):
		return fmt.Errorf("%w: %w (%w)", ErrUnavailable, errNoCRD, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: not allowed to %s %s: grant it to the daemon's ServiceAccount (deployments/meta-cni.yaml, ClusterRole): %w", ErrUnavailable, verb, resource, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the API server refuses the token: check the projected token of the ServiceAccount: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %s %s: %w", ErrUnavailable, verb, resource, err)
}

// Explain turns an error of the API machinery into one for an operator, with
// the verb and the resource (such as ipblocks.meta-cni.io) that were tried. It
// wraps ErrUnavailable: asked again later, the answer may be another.
func Explain(err error, verb, resource string) error {
	if err != nil && isMissingCRD(err) {
		return fmt.Errorf("%w: the API server doesn't serve %s: install the CustomResourceDefinitions of deployments/meta-cni.yaml: %w", ErrUnavailable, resource, withoutURL(err))
	}
	return explain(err, verb, resource)
}

// IsMissingKind says that the API server doesn't know the resource at all,
// which is no answer about one object.
func IsMissingKind(err error) bool { return isMissingCRD(err) }

// isMissingCRD tells "no such resource" from "no such object": for the former
// the API server answers in plain text.
func isMissingCRD(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// answered says that the API server was reached and said no, so that waiting
// for the network doesn't help.
func answered(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
}
