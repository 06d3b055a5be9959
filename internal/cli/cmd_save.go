package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var saveCommand = command{
	name: "save", args: "[flags] IMAGE FILE|-", group: groupImages, min: 2, max: 2,
	brief:   "write an image to an OCI archive; - writes standard output",
	example: "sudo fermata save registry.example.com/app:1.2 app.tar",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, args []string) error { return s.save(ctx, args[0], args[1]) }
	},
}

// save writes beside the file and renames, so that a broken transfer leaves no half archive under its name.
func (s *session) save(ctx context.Context, image, file string) error {
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	stream, err := client.ExportImage(ctx, &fermatav1.ExportImageRequest{Image: image})
	if err != nil {
		return fmt.Errorf("save %s: %w", image, err)
	}
	if file == "-" {
		_, err := receive(stream, s.Stdout)
		if err != nil {
			return fmt.Errorf("save %s: %w", image, err)
		}
		return nil
	}
	part, err := os.CreateTemp(filepath.Dir(file), ".fermata-save-*")
	if err != nil {
		return fmt.Errorf("save %s: %w", image, err)
	}
	defer os.Remove(part.Name()) // after a rename there is nothing left to remove
	written, err := receive(stream, part)
	if err = errors.Join(err, part.Chmod(0o644), part.Close()); err != nil {
		return fmt.Errorf("save %s: %w", image, err)
	}
	if err := os.Rename(part.Name(), file); err != nil {
		return fmt.Errorf("save %s: %w", image, err)
	}
	fmt.Fprintf(s.Stderr, "saved %s: %s\n", file, bytesText(written))
	return nil
}

func receive(stream fermatav1.Fermata_ExportImageClient, to io.Writer) (written uint64, err error) {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := to.Write(message.Chunk)
		written += uint64(n)
		if err != nil {
			return written, err
		}
	}
}
