package controller

import (
	"strconv"
	"strings"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// StatefulSet is what counts of one.
type StatefulSet struct {
	// First is the lowest ordinal, Replicas how many there are to be.
	First, Replicas int
}

// KeeperEvidence is what the API server says at this moment of whom an address
// is kept for.
type KeeperEvidence struct {
	// Err says that it couldn't be asked; the rest is nothing then.
	Err error
	// PodExists: there is a pod of that namespace and name.
	PodExists bool
	// Set is the StatefulSet that a pod of that name would be of, nil if there
	// is none.
	Set *StatefulSet
	// ClaimUID is the UID of the IPAMClaim of that name, empty if there is none.
	ClaimUID string
	// ClaimUser is a pod that names the IPAMClaim, empty if there is none.
	ClaimUser string
}

// Times are the waits of the controller. The zero value of each is its default.
type Times struct {
	// Gone is how long a Node object is gone before its blocks and claims are
	// taken (11m): the time for an operator's second thought. An agent that sees
	// its Node gone gives nothing away any more.
	Gone time.Duration
	// OutOfService is the same for the taint (1m).
	OutOfService time.Duration
	// Cooling is how long a claim of no node cools down (10m).
	Cooling time.Duration
	// Twice is the time between two observations of a keeper that is gone (1m).
	Twice time.Duration
	// PodAbsent is how long an address is kept for a pod that no StatefulSet
	// would make again (24h).
	PodAbsent time.Duration
}

func (t Times) withDefaults() Times {
	for _, d := range []struct {
		value     *time.Duration
		byDefault time.Duration
	}{
		{&t.Gone, 11 * time.Minute},
		{&t.OutOfService, time.Minute},
		{&t.Cooling, 10 * time.Minute},
		{&t.Twice, time.Minute},
		{&t.PodAbsent, 24 * time.Hour},
	} {
		if *d.value <= 0 {
			*d.value = d.byDefault
		}
	}
	return t
}

func (t Times) grace(c condition) time.Duration {
	if c == outOfService {
		return t.OutOfService
	}
	return t.Gone
}

// Keeper says why an address need not be kept any more, and how long that must
// be so before it is let go; no reason means that it is kept.
//
//   - A pod with an ordinal (web-0): its StatefulSet is gone or has fewer
//     replicas, and the pod is gone: Twice.
//   - Another pod that is gone: PodAbsent.
//   - An IPAMClaim of which that UID is gone, and no pod names it: Twice.
func (t Times) Keeper(k ipam.Keeper, e KeeperEvidence) (reason string, wait time.Duration) {
	if e.Err != nil {
		return "", 0
	}
	switch k.Kind {
	case ipam.KeepPod:
		return t.podKeeper(k, e)
	case ipam.KeepClaim:
		if e.ClaimUID != "" && e.ClaimUID == k.UID || e.ClaimUser != "" {
			return "", 0
		}
		return "the IPAMClaim is gone", t.Twice
	}
	return "nobody is named", t.Twice
}

func (t Times) podKeeper(k ipam.Keeper, e KeeperEvidence) (string, time.Duration) {
	_, ordinal, isOrdinal := ordinalOf(k.Name)
	switch {
	case e.PodExists:
		return "", 0
	case !isOrdinal:
		return "the pod is gone", t.PodAbsent
	case e.Set == nil:
		return "the StatefulSet is gone", t.Twice
	case ordinal < e.Set.First || ordinal >= e.Set.First+e.Set.Replicas:
		return "the StatefulSet has fewer replicas", t.Twice
	}
	return "", 0
}

// ordinalOf takes the name of a StatefulSet's pod apart.
func ordinalOf(pod string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(pod, '-')
	if i <= 0 {
		return "", 0, false
	}
	ordinal, err := strconv.Atoi(pod[i+1:])
	if err != nil || strconv.Itoa(ordinal) != pod[i+1:] {
		return "", 0, false
	}
	return pod[:i], ordinal, true
}
