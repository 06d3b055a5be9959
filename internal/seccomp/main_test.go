package seccomp

import (
	"os"
	"testing"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	leak.Main(m)
}
