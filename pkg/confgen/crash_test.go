//go:build !failpoint

package confgen

// crashChild has nothing to do without armed failpoints.
func crashChild() {}
