// Package ipam has the verbs of `metactl ipam`: show, check, release,
// import-whereabouts, on the objects of a cluster or the folder of a host
// without one.
//
// A verb reads a source (source.go), looks at values without I/O, and prints.
// Lists come page by page, and of a page only what is needed is kept. It is no
// part of the allocator: nothing here gives an address to a pod.
//
// Its invariant: an object is deleted only with the UID and resourceVersion
// that its proof was read with, and only claims are ever deleted.
package ipam
