package launch

import (
	"flag"
	"testing"

	"fermata/internal/testkit/leak"
)

// update rewrites goldens and code_generated.go instead of comparing.
var update = flag.Bool("update", false, "rewrite golden files and generated code")

func TestMain(m *testing.M) { leak.Main(m) }
