package annotation

import (
	"encoding/json"
	"fmt"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// ArgsKey is the CNI_ARGS key that carries selections in the comma form, for
// callers without pods, as in
// CNI_ARGS="IgnoreUnknown=1;META_CNI_NETWORKS=net1,ns/net2@if2" cnitool add …
// (likewise for whatever drives podman or nerdctl through libcni and can set
// arguments). The JSON form is for annotations: CNI_ARGS reserves ";".
const ArgsKey = "META_CNI_NETWORKS"

// FromArgs finds the selections that a caller gives in CNI_ARGS, as a value for
// Parse. The last pair counts, as for an environment.
func FromArgs(args [][2]string) (value string, ok bool) {
	for _, pair := range args {
		if pair[0] == ArgsKey {
			value, ok = pair[1], true
		}
	}
	return value, ok
}

// wireSelection is one element as it is written.
type wireSelection struct {
	nadv1.NetworkSelectionElement
	DeviceID string `json:"deviceID,omitempty"`
}

// Format writes selections in the JSON form; Parse reads them back unchanged.
func Format(selections []attach.Selection) string {
	wire := make([]wireSelection, 0, len(selections))
	for _, s := range selections {
		wire = append(wire, wireSelection{NetworkSelectionElement: s.Element, DeviceID: s.DeviceID})
	}
	data, err := json.Marshal(wire)
	if err != nil {
		// Only a caller that puts a channel or a function into CNIArgs gets here.
		panic(fmt.Sprintf("selections of a type that JSON can't hold: %v", err))
	}
	return string(data)
}
