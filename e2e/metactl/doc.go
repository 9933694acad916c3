// Package metactl has tests of `metactl ipam` on a real API server, with the
// rights of an operator: data is made by the stores of the IPAM.
package metactl
