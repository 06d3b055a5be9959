package images

import (
	"context"
	"fmt"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/testkit/tools"
)

// upstreamDigest is what critest has compiled in for [DigestImage]: an image that only a public registry has. Ours is put in its
// place.
const upstreamDigest = "sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

// Critest builds the suite so that it asks for the images that are served.
func Critest(ctx context.Context, served map[string]v1.Image) (string, error) {
	digest, err := served[DigestImage+":latest"].Digest()
	if err != nil {
		return "", err
	}
	const consts = "pkg/validate/consts.go"
	path, err := tools.CriToolsFile(ctx, consts)
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if strings.Count(string(source), upstreamDigest) != 1 {
		return "", fmt.Errorf("%s: digest %s not found once", path, upstreamDigest)
	}
	ours := []byte(strings.ReplaceAll(string(source), upstreamDigest, digest.String()))
	return tools.Critest(ctx, digest.Hex[:12], map[string][]byte{consts: ours})
}
