//go:build !failpoint

// Package failpoint marks the steps at which a test may end the process as
// kill -9 would. In a normal build Hit does nothing and costs nothing; with
// the build tag `failpoint`, the environment variable META_CNI_FAILPOINT
// (name, or name:n for the n-th time) names the step that is fatal.
//
// Every name is a literal at its call, so that a test can list all steps from
// the source and none can be forgotten.
package failpoint

// Hit marks a step.
func Hit(string) {}
