package manifest

import (
	"flag"
	"testing"

	"fermata/internal/testkit/leak"
)

// update rewrites the expected parts of testdata instead of comparing.
var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { leak.Main(m) }
