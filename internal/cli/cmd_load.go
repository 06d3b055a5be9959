package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

// pieceSize keeps a message far below gRPC's usual 4 MiB.
const pieceSize = 1 << 20

var loadCommand = command{
	name: "load", args: "[flags] FILE|-", group: groupImages, min: 1, max: 1,
	brief:   "store the images of an archive: an OCI layout or docker save, also compressed; - reads standard input",
	example: "sudo fermata load app.tar\ndocker save app:1 | sudo fermata load -",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		name := flags.String("name", "", "reference for an image that the archive does not name")
		return func(ctx context.Context, args []string) error { return s.load(ctx, args[0], *name) }
	},
}

func (s *session) load(ctx context.Context, file, name string) error {
	source := s.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		defer f.Close()
		source = f
	}
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when sending it breaks off
	stream, err := client.LoadImage(ctx)
	if err != nil {
		return fmt.Errorf("load %s: %w", file, err)
	}
	begun := time.Now()
	stop := s.progress("loading " + file)
	sent, err := send(stream, source, name)
	var answer *fermatav1.LoadImageResponse
	if err == nil {
		answer, err = stream.CloseAndRecv()
	}
	stop()
	if err != nil {
		return fmt.Errorf("load %s: %w", file, err)
	}
	if done, err := s.structured(answer, ""); done {
		return err
	}
	for i, id := range answer.Ids {
		if i < len(answer.References) && answer.References[i] != "" {
			fmt.Fprintf(s.Stdout, "image/%s loaded (%s)\n", answer.References[i], short(id))
		} else {
			fmt.Fprintf(s.Stdout, "image/%s loaded\n", short(id))
		}
	}
	fmt.Fprintf(s.Stderr, "loaded %s in %s\n", bytesText(sent), seconds(time.Since(begun)))
	return nil
}

// send cuts the archive into messages. When the daemon has already refused, its reason comes from CloseAndRecv.
func send(stream fermatav1.Fermata_LoadImageClient, source io.Reader, name string) (sent uint64, err error) {
	piece := make([]byte, pieceSize)
	for {
		n, err := io.ReadFull(source, piece)
		if n > 0 || name != "" {
			switch sendErr := stream.Send(&fermatav1.LoadImageRequest{Chunk: piece[:n], Name: name}); {
			case errors.Is(sendErr, io.EOF):
				return sent, nil
			case sendErr != nil:
				return sent, sendErr
			}
		}
		sent, name = sent+uint64(n), ""
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return sent, nil
		case err != nil:
			return sent, err
		}
	}
}
