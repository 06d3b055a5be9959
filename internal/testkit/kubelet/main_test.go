package kubelet

import (
	"testing"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }
