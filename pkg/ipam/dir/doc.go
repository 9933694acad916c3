// Package dir keeps the objects of the IPAM in a folder, one JSON file each,
// for hosts without Kubernetes, for one-shot processes, the demo and tests.
// Any number of processes use one folder at once, each as a node of its own.
//
// A file appears by link(2), which alone decides who made it, whole and synced;
// it is replaced by rename(2) and removed under a lock of its space (flock(2)),
// and the folder is synced before a write is answered. So a process may be
// killed anywhere: what is left is the object of before or after, and a
// temporary file that the next Open takes away. A file that can't be read is
// an error and never an address that nobody has.
//
// It is made for one host. On a folder that hosts share, link, rename and flock
// must hold for all of them at once, as they do on NFS from version 4 on, but
// not with nolock. Lists read every file, which is fit for some thousand
// claims.
//
//	spaces/<space>.json            blocks/<space>/<block>.json
//	claims/<space>/<address>.json  asks/<node>/<space>.<block>
//	locks/<space>                  tmp/<space>.<random>
package dir
