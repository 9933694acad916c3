//go:build !failpoint

package confgen

// crashChild has nothing to do in a build whose failpoints are not armed.
func crashChild() {}
