package image_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"fermata/internal/image"
	"fermata/internal/testkit/leak"
)

// When these are set, the test binary is a process that pulls and is killed meanwhile.
const envRoot, envRef = "FERMATA_TEST_PULL_ROOT", "FERMATA_TEST_PULL_REF"

func TestMain(m *testing.M) {
	if root := os.Getenv(envRoot); root != "" {
		s, err := image.Open(image.Options{Root: root})
		if err == nil {
			_, err = s.Pull(context.Background(), image.Pull{Ref: os.Getenv(envRef)})
		}
		fmt.Println(err)
		return
	}
	leak.Main(m)
}
