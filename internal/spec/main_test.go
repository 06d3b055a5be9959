package spec_test

import (
	"flag"
	"testing"

	"fermata/internal/testkit/leak"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { leak.Main(m) }
