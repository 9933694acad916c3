// Package lint holds the house rules that no linter knows: each package has
// its floor in .golangci.yml, only the known folders lie at the top, every
// failpoint has a name of its own. It has no code but its tests.
package lint
