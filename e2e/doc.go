// Package e2e holds the tests that need a whole cluster: package world starts
// it, package scenario plays the stories of testdata/*.txtar on it. All of
// its tests carry the build tag e2e; see README.md.
package e2e
