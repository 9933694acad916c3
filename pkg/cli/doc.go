// Package cli is the inside of metactl, what an operator types: the root of
// its commands, how they reach a cluster, and how they end. Each noun has a
// package of its own below, each verb a file there.
//
// It uses cobra, because people who know kubectl write flags behind arguments
// and expect completion.
//
// Its invariant: a command only reads, unless its help says what it changes.
package cli
