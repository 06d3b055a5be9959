// Package keeper is the keeper's server.
package keeper

// Main runs the keeper.
func Main(args []string) int { return 1 }
