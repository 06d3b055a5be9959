package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

var rmiCommand = command{
	name: "rmi", args: "IMAGE...", group: groupImages, min: 1, max: -1,
	brief: "remove images",
	long:  `An image that a container uses keeps its content until that container is removed.`,
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, args []string) error {
			return s.each(args, func(image string) error { return s.removeImage(ctx, image) })
		}
	},
}

func (s *session) removeImage(ctx context.Context, image string) error {
	client, err := s.images(ctx)
	if err != nil {
		return err
	}
	spec := &runtimeapi.ImageSpec{Image: image}
	// CRI lets an unknown image count as removed; a person wants to hear that nothing was.
	status, err := client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return fmt.Errorf("remove image %s: %w", image, err)
	}
	if status.Image == nil {
		return errs.New(errs.NotFound, "image %q: there is none; `fermata images` lists them", image)
	}
	if _, err := client.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
		return fmt.Errorf("remove image %s: %w", image, err)
	}
	fmt.Fprintf(s.Stdout, "image/%s removed\n", image)
	return nil
}

// each does something for every argument, also after one that does not succeed; every error but the last is printed at once.
func (s *session) each(args []string, do func(string) error) error {
	var last error
	for _, arg := range args {
		if err := do(arg); err != nil {
			if last != nil {
				fmt.Fprintln(s.Stderr, "fermata:", plain(last))
			}
			last = err
		}
	}
	return last
}
