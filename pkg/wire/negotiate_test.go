package wire

import "testing"

func TestNegotiate(t *testing.T) {
	for _, test := range []struct {
		name, command, version string
		want                   bool
	}{
		{"newest", "ADD", "1.1.0", true},
		{"oldest announced", "ADD", "0.3.1", true},
		{"same result as the oldest", "ADD", "0.3.0", true},
		{"older", "ADD", "0.2.0", false},
		{"none", "ADD", "", false},
		{"newer", "ADD", "1.2.0", false},
		{"what must go away", "DEL", "", true},
		{"VERSION", "VERSION", "9", true},
		{"CHECK", "CHECK", "0.4.0", true},
		{"CHECK before there was one", "CHECK", "0.3.1", false},
		{"CHECK of 0.3.0", "CHECK", "0.3.0", false},
		{"STATUS", "STATUS", "1.1.0", true},
		{"STATUS before there was one", "STATUS", "1.0.0", false},
		{"GC", "GC", "1.1.0", true},
		{"GC before there was one", "GC", "1.0.0", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Negotiate(test.command, test.version)
			if (err == nil) != test.want {
				t.Fatalf("got %v", err)
			}
			if err != nil && err.Code != CodeIncompatibleVersion {
				t.Errorf("code %d", err.Code)
			}
		})
	}
}
