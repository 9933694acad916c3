package wire

import (
	"fmt"
	"slices"
	"strings"
)

// SupportedVersions are the CNI versions that the plugin announces, oldest
// first.
func SupportedVersions() []string {
	return []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}
}

// Negotiate says whether command may be answered in the cniVersion of the
// caller's configuration; nil means yes. DEL is never refused: what an older
// release has added must go away. 0.3.0 is not announced, but its result is
// that of 0.3.1 and many network definitions that call an IPAM plugin name it.
func Negotiate(command, cniVersion string) *Error {
	if command == "DEL" || command == "VERSION" {
		return nil
	}
	supported := SupportedVersions()
	at := slices.Index(supported, cniVersion)
	if at < 0 && cniVersion != "0.3.0" {
		return &Error{
			Code:    CodeIncompatibleVersion,
			Msg:     fmt.Sprintf("cniVersion %q of the network configuration is not supported", cniVersion),
			Details: "supported: " + strings.Join(supported, ", "),
		}
	}
	since := map[string]string{"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}[command]
	if since != "" && at < slices.Index(supported, since) {
		return &Error{
			Code:    CodeIncompatibleVersion,
			Msg:     fmt.Sprintf("%s needs cniVersion %s or later, the network configuration says %q", command, since, cniVersion),
			Details: "supported: " + strings.Join(supported, ", "),
		}
	}
	return nil
}
