// Package ipamtest is what the stores of the IPAM and those that use them are
// tested with: Store, a suite with a test for each sentence of ipam.Store's
// documentation, and Memory, a store without disk or network whose requests
// can fail in every way in which those of an API server can.
//
// It is for tests only. Its invariant: Memory passes the suite, and with the
// same requests in the same order it gives the same answers.
package ipamtest
