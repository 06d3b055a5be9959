package cli

import (
	"context"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var imagesCommand = command{
	name: "images", args: "[flags]", group: groupImages, max: 0,
	brief: "list images",
	long:  `PINNED images are fermata's own and cannot be removed.`,
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		digests := flags.Bool("digests", false, "also the digest of each repository")
		return func(ctx context.Context, args []string) error { return s.listImages(ctx, *digests) }
	},
}

func (s *session) listImages(ctx context.Context, digests bool) error {
	client, err := s.images(ctx)
	if err != nil {
		return err
	}
	answer, err := client.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	if done, err := s.structured(answer, ""); done {
		return err
	}
	if len(answer.Images) == 0 {
		fmt.Fprintln(s.Stderr, "No images found.")
		return nil
	}
	heads := []string{"REPOSITORY", "TAG", "IMAGE ID", "SIZE", "PINNED"}
	if digests {
		heads = append(heads, "DIGEST")
	}
	t := newTable(heads...)
	var rows [][]string
	for _, image := range answer.Images {
		rows = append(rows, imageRows(image, digests)...)
	}
	sort.SliceStable(rows, func(i, j int) bool { return rows[i][0]+":"+rows[i][1] < rows[j][0]+":"+rows[j][1] })
	for _, row := range rows {
		t.add(row...)
	}
	return t.print(s.Stdout)
}

// imageRows is a row a tag, or one for an image without.
func imageRows(image *runtimeapi.Image, digests bool) [][]string {
	pinned := "no"
	if image.Pinned {
		pinned = "yes"
	}
	tail := []string{short(image.Id), bytesText(image.Size), pinned}
	var rows [][]string
	add := func(repository, tag string) {
		row := append([]string{repository, tag}, tail...)
		if digests {
			row = append(row, digestOf(image, repository))
		}
		rows = append(rows, row)
	}
	for _, tagged := range image.RepoTags {
		repository, tag := splitTag(tagged)
		add(repository, tag)
	}
	if len(rows) == 0 {
		repository := "<none>"
		if len(image.RepoDigests) > 0 {
			repository, _, _ = strings.Cut(image.RepoDigests[0], "@")
		}
		add(repository, "<none>")
	}
	return rows
}

func digestOf(image *runtimeapi.Image, repository string) string {
	for _, d := range image.RepoDigests {
		if r, digest, ok := strings.Cut(d, "@"); ok && r == repository {
			return digest
		}
	}
	return "<none>"
}

// splitTag parts name:tag at the colon after the last slash; the colon of a registry's port is before it.
func splitTag(ref string) (repository, tag string) {
	base := path.Base(ref)
	if _, tag, ok := strings.Cut(base, ":"); ok {
		return strings.TrimSuffix(ref, ":"+tag), tag
	}
	return ref, "<none>"
}

// shortImage shows an image that is named by its digest alone as its ID is shown elsewhere.
func shortImage(ref string) string {
	if strings.HasPrefix(ref, "sha256:") {
		return short(ref)
	}
	return ref
}
