// Command fermata-keeper launches, holds, logs and reaps the processes of a node's pods.
package main

import (
	"os"

	"fermata/internal/keeper"
)

func main() { os.Exit(keeper.Main(os.Args[1:])) }
