package attach

import (
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		key  Key
		want string // part of the error, empty for none
	}{
		"containerd":     {Key{strings.Repeat("0f", 32), "eth0"}, ""},
		"dots and dash":  {Key{"a.b_c-d", "net1.5"}, ""},
		"longest":        {Key{strings.Repeat("a", MaxContainerID), "123456789012345"}, ""},
		"empty ID":       {Key{"", "eth0"}, "container ID is empty"},
		"too long ID":    {Key{strings.Repeat("a", MaxContainerID+1), "eth0"}, "at most 200"},
		"traversal":      {Key{"../x", "eth0"}, "invalid character"},
		"slash":          {Key{"a/b", "eth0"}, "invalid character"},
		"at":             {Key{"a@b", "eth0"}, "invalid character"},
		"empty name":     {Key{"a", ""}, "interface name is empty"},
		"too long name":  {Key{"a", "1234567890123456"}, "the kernel allows 15"},
		"dot":            {Key{"a", ".."}, "not allowed"},
		"name and slash": {Key{"a", "x/y"}, "invalid character"},
		"name and space": {Key{"a", "x y"}, "invalid character"},
		"format":         {Key{"a", "x%d"}, "invalid character"},
		"latin-1 space":  {Key{"a", "x\u00a0"}, "invalid character"},
		"zero":           {Key{"a", "x\x00"}, "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.key.Validate()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
		})
	}
}
