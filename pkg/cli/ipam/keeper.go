package ipam

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const (
	// letGo is how long the controller takes, amply, to let go of an address
	// whose keeper is gone.
	letGo = 10 * time.Minute
	// podAbsent is how long it waits for a pod that no StatefulSet makes again.
	podAbsent = 24 * time.Hour
)

// goneKeeper says why whom an address is kept for doesn't need it any more, and
// how long the controller keeps it all the same. An empty why: it is needed.
func goneKeeper(ctx context.Context, w world, k ipam.Keeper) (why string, wait time.Duration, err error) {
	if k.Kind == ipam.KeepClaim {
		uid, err := w.ipamClaim(ctx, k.Namespace, k.Name)
		switch {
		case err != nil:
			return "", 0, err
		case uid == "":
			why = fmt.Sprintf("there is no IPAMClaim %s/%s", k.Namespace, k.Name)
		case uid != k.UID:
			why = fmt.Sprintf("IPAMClaim %s/%s has UID %s, the address is kept for %s", k.Namespace, k.Name, uid, k.UID)
		}
		return why, letGo, nil
	}
	p, err := w.pod(ctx, k.Namespace, k.Name)
	if err != nil || p != nil {
		return "", 0, err
	}
	name, ordinal, ok := ordinalOf(k.Name)
	if !ok {
		return fmt.Sprintf("there is no pod %s/%s", k.Namespace, k.Name), podAbsent, nil
	}
	set, err := w.statefulSet(ctx, k.Namespace, name)
	switch {
	case err != nil:
		return "", 0, err
	case set == nil:
		return fmt.Sprintf("there is neither a pod %s/%s nor a StatefulSet %s that would make it", k.Namespace, k.Name, name), letGo, nil
	case ordinal < set.first || ordinal >= set.first+set.replicas:
		return fmt.Sprintf("StatefulSet %s/%s has fewer replicas than that", k.Namespace, name), letGo, nil
	}
	return "", 0, nil
}

// ordinalOf takes the name of a StatefulSet's pod apart.
func ordinalOf(pod string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(pod, '-')
	if i <= 0 {
		return "", 0, false
	}
	ordinal, err := strconv.Atoi(pod[i+1:])
	return pod[:i], ordinal, err == nil && strconv.Itoa(ordinal) == pod[i+1:]
}

// keepers looks for those of kept addresses.
func (c *checker) keepers(ctx context.Context) error {
	w := c.source.world()
	if w == nil {
		return nil
	}
	var errs []error
	for _, cl := range c.kept {
		if _, exists := c.pods[cl.Keep.Namespace+"/"+cl.Keep.Name]; exists && cl.Keep.Kind == ipam.KeepPod {
			continue
		}
		why, wait, err := goneKeeper(ctx, w, cl.Keep)
		f := finding{Level: suspicious, Kind: kindKept, Object: "IPClaim " + cl.Ref.String(), Text: "it is kept for " + cl.Keep.String(), claim: &cl}
		switch {
		case apierrors.IsNotFound(err): // the kind, not the object
			f.Why, f.Do = "the API server doesn't serve IPAMClaims", "install their CustomResourceDefinition, or "+releaseLine(cl.Ref)+" --force if no virtual machine needs the address"
		case err != nil:
			errs = append(errs, err)
			continue
		case why == "" || !cl.Since.IsZero() && c.now.Sub(cl.Since) < wait:
			continue
		default:
			f.Why, f.Do = why, "meta-cni-controller lets go of it by itself; if it stays, see its log, or "+releaseLine(cl.Ref)
		}
		c.found(f)
	}
	return errors.Join(errs...)
}
