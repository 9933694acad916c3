package ipam

import "testing"

func TestCovers(t *testing.T) {
	key := Key{ContainerID: "c", IfName: "net1", Network: "red"}
	for _, test := range []struct {
		name string
		held Key
		want bool
	}{
		{"the same", key, true},
		{"network unknown", Key{ContainerID: "c", IfName: "net1", Network: Unknown}, true},
		{"both unknown", Key{ContainerID: "c", IfName: Unknown, Network: Unknown}, true},
		{"another container", Key{ContainerID: "d", IfName: Unknown, Network: Unknown}, false},
		{"another interface", Key{ContainerID: "c", IfName: "net2", Network: Unknown}, false},
		{"another network", Key{ContainerID: "c", IfName: "net1", Network: "blue"}, false},
	} {
		if got := test.held.Covers(key); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
