package exec

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// validate holds what is part of a call's names against the specification.
func validate(list *libcni.NetworkConfigList, c Call) error {
	if err := utils.ValidateContainerID(c.Plan.Key.ContainerID); err != nil {
		return err
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return err
	}
	if err := utils.ValidateInterfaceName(c.delegate().IfName); err != nil {
		return err
	}
	return nil
}

func atLeast(list *libcni.NetworkConfigList, wanted string) (bool, error) {
	ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, wanted)
	if err != nil {
		return false, fmt.Errorf("network %s: %w", list.Name, err)
	}
	return ok, nil
}

// configuration is what one plugin of a list gets on its standard input.
func configuration(list *libcni.NetworkConfigList, plugin *libcni.PluginConfig, c Call, previous types.Result) ([]byte, error) {
	inject := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	if previous != nil {
		inject["prevResult"] = previous
	}
	if len(c.Plan.Delegates) > 0 {
		if values := declared(plugin, c.delegate().Capabilities); len(values) > 0 {
			inject["runtimeConfig"] = values
		}
	}
	conf, err := libcni.InjectConf(plugin, inject)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return conf.Bytes, nil
}

// declared are the values of the capabilities that a plugin declares.
func declared(plugin *libcni.PluginConfig, values map[string]json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for name, supported := range plugin.Network.Capabilities {
		if value, ok := values[name]; ok && supported {
			out[name] = value
		}
	}
	return out
}

// parseResult reads what a plugin printed on a successful ADD. One that printed
// nothing has nothing to add to the result of the one before it. A result
// without a version is in that of its configuration.
func parseResult(list *libcni.NetworkConfigList, out []byte, previous types.Result) (types.Result, error) {
	if len(bytes.TrimSpace(out)) == 0 {
		return previous, nil
	}
	var result map[string]json.RawMessage
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, fmt.Errorf("its result can't be read: %w", err)
	}
	if result == nil {
		result = map[string]json.RawMessage{} // it printed null
	}
	var printed string
	if json.Unmarshal(result["cniVersion"], &printed) == nil && printed != "" {
		return create.Create(printed, out)
	}
	wanted := list.CNIVersion
	if wanted == "" {
		wanted = "0.1.0" // the specification's meaning of no version
	}
	result["cniVersion"] = fmt.Appendf(nil, "%q", wanted)
	whole, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	return create.Create(wanted, whole)
}

// convert brings a result to version 1.1.0; none is an empty one.
func convert(result types.Result) (json.RawMessage, error) {
	if result == nil {
		return json.RawMessage(`{"cniVersion":"1.1.0"}`), nil
	}
	latest, err := result.GetAsVersion(types100.ImplementedSpecVersion)
	if err != nil {
		return nil, fmt.Errorf("result of version %s: %w", result.Version(), err)
	}
	return json.Marshal(latest)
}

// previous is the result that DEL and CHECK show to the plugins: the caller's,
// else the remembered one; nil if there is none or the list is older than that
// (specification 0.4.0).
func (r *Runner) previous(list *libcni.NetworkConfigList, c Call) (types.Result, error) {
	shown, err := atLeast(list, "0.4.0")
	if err != nil || !shown {
		return nil, err
	}
	raw := c.Previous
	if raw == nil {
		if raw, err = r.RememberedResult(c.Plan.Key, c.delegate()); err != nil {
			r.opts.Log.Warn("the cache of results can't be read", "set", c.Plan.Key.String(), "error", err.Error())
		}
	}
	if raw == nil {
		return nil, nil //nolint:nilnil // no result is no error
	}
	result, err := create.CreateFromBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("result of the ADD: %w", err)
	}
	if result, err = result.GetAsVersion(list.CNIVersion); err != nil {
		return nil, fmt.Errorf("result of the ADD: %w", err)
	}
	return result, nil
}
