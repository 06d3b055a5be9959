// Package daemon is the only wiring: it makes every part, gives each what it needs, serves, and ends them in reverse order.
//
// The adapters between packages that may not know each other (pod's interfaces on one side; image, network, engine, keeper and durable on
// the other) are here, one file each, and decide nothing.
package daemon
