package confgen

import (
	"errors"
	"fmt"
)

// ErrNoPrimary marks that no file of the configuration folder can be the
// primary.
var ErrNoPrimary = errors.New("no cluster network")

// Generate is the content of 00-meta.conf for this primary: JSON with sorted
// keys. It doesn't take disableCheck or disableGC over from the primary: they
// say what libcni must not ask the primary's plugins, and our own CHECK and GC
// work from the journal.
func Generate(primary Choice, s Settings) ([]byte, error) {
	if primary.File == "" {
		return nil, fmt.Errorf("generate %s: %w", ConfName, ErrNoPrimary)
	}
	version := s.CNIVersion
	switch version {
	case "":
		version = "1.1.0"
	case "1.0.0", "1.1.0":
	default:
		return nil, fmt.Errorf("generate %s: cniVersion %q: use 1.1.0 or 1.0.0", ConfName, version)
	}
	capabilities := map[string]bool{podAnnotations: true}
	for _, name := range primary.Capabilities {
		capabilities[name] = true
	}
	for _, name := range s.Capabilities {
		capabilities[name] = true
	}
	conf := map[string]any{
		"cniVersion":   version,
		"name":         NetworkName,
		"type":         PluginType,
		"capabilities": capabilities,
		"primary":      primary.File,
	}
	for key, value := range map[string]string{
		"mode": s.Mode, "socket": s.Socket, "stateDir": s.StateDir, "confDir": s.ConfDir,
		"objectsDir": s.ObjectsDir, "kubeconfig": s.Kubeconfig,
		"nodeName": s.NodeName, "ipamDir": s.IPAMDir,
	} {
		if value != "" {
			conf[key] = value
		}
	}
	if len(s.NetworkDirs) > 0 {
		conf["networkDirs"] = s.NetworkDirs
	}
	return encode(conf)
}
