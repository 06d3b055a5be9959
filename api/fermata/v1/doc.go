// Package fermatav1 is the fermata.v1 service: what CRI has no word for, on the same socket as CRI. The Go code is made from
// fermata.proto by `make generate`; the server is in package daemon, the client in package cli.
package fermatav1
