package ipam

import (
	"errors"
	"fmt"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/meta-cni/meta-cni/pkg/ipam/dir"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

// remedy puts what to do before an error whose cause is known.
func remedy(err error) error {
	var status apierrors.APIStatus
	var unreached *url.Error
	switch {
	case err == nil:
		return nil
	case kube.IsMissingKind(err):
		return fmt.Errorf("meta-cni's objects aren't installed on this cluster; run kubectl apply -f deployments/meta-cni.yaml: %w", err)
	case apierrors.IsForbidden(err) && errors.As(err, &status):
		return fmt.Errorf("you lack a right (an operator's ClusterRole is in README.md, under metactl): %s", status.Status().Message)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server doesn't know you: log in again, or give another --kubeconfig or --context: %w", err)
	case errors.As(err, &unreached):
		return fmt.Errorf("the API server doesn't answer; is this the right --kubeconfig and --context, or --dir without a cluster? %w", err)
	case errors.Is(err, dir.ErrNoFolder):
		return fmt.Errorf("%w; --dir is the daemon's ipam.dir, by default /var/lib/meta-cni/addresses, and root's", err)
	}
	return err
}
