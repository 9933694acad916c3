package crd

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// maxOwners bounds the lines of a block's status.
const maxOwners = 1024

// Mirror implements ipam.Store by one patch of the block's status, which may be
// repeated: nothing is decided by it. The first 1024 owners are told. It is a
// JSON patch with a test, because the API server puts the UID of a merge patch
// right before it looks at it.
func (s *Store) Mirror(ctx context.Context, u ipam.Usage) (ipam.Version, error) {
	const verb, resource = "patch", v1alpha1.ResourceIPBlocks + "/status"
	if u.Version.UID == "" {
		return ipam.Version{}, fmt.Errorf("usage of block %s: %w: no UID is given", u.Ref, ipam.ErrStale)
	}
	body, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": u.Version.UID},
		{"op": "add", "path": "/status", "value": encodeUsage(u)},
	})
	if err != nil {
		return ipam.Version{}, fmt.Errorf("usage of block %s: %w", u.Ref, err)
	}
	patch, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	made, err := s.meta.Resource(v1alpha1.Resource(v1alpha1.ResourceIPBlocks)).Namespace(v1alpha1.Namespace).
		Patch(patch, u.Ref.String(), types.JSONPatchType, body, metav1.PatchOptions{}, "status")
	if apierrors.IsInvalid(err) {
		// The test failed, or the status is none; which, the answer doesn't say.
		now, getErr := s.GetBlock(ctx, u.Ref)
		if getErr != nil {
			return ipam.Version{}, getErr
		}
		if now.Version.UID != u.Version.UID {
			return ipam.Version{}, fmt.Errorf("%s %s %s: %w: its UID is %s, not %s", verb, kind(resource), u.Ref, ipam.ErrStale, now.Version.UID, u.Version.UID)
		}
	}
	if err != nil {
		return ipam.Version{}, sorted(err, verb, resource, u.Ref.String())
	}
	s.seen.note(v1alpha1.ResourceIPBlocks, made.ResourceVersion)
	return versionOf(made), nil
}
