package keeper_test

import (
	"os"
	"testing"

	"fermata/internal/keeper"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--socket" { // as client.Start starts it
		os.Exit(keeper.Main(os.Args[1:]))
	}
	leak.Main(m)
}
