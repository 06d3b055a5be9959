package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"

	"google.golang.org/grpc"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/config"
	"fermata/internal/image"
)

// exportChunk is how much of an exported image one message carries, in bytes.
const exportChunk = 256 << 10

// service is fermata.v1: what the CRI has no word for.
type service struct {
	fermatav1.UnimplementedFermataServer
	images *image.Store
	cfg    *config.Config
}

func registerFermata(s *grpc.Server, p *parts) {
	fermatav1.RegisterFermataServer(s, &service{images: p.images, cfg: p.cfg})
}

// Version says which daemon answers.
func (s *service) Version(context.Context, *fermatav1.VersionRequest) (*fermatav1.VersionResponse, error) {
	return &fermatav1.VersionResponse{
		Version: Version, Build: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH, Pid: int32(os.Getpid()),
		Root: s.cfg.Root, Instance: s.cfg.Instance(),
	}, nil
}

// LoadImage stores the images of an archive.
func (s *service) LoadImage(in grpc.ClientStreamingServer[fermatav1.LoadImageRequest, fermatav1.LoadImageResponse]) error {
	first, err := in.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	ids, err := s.images.Load(in.Context(), &chunks{next: in.Recv, rest: first.GetChunk()}, image.LoadOptions{Name: first.GetName()})
	if err != nil {
		return err
	}
	resp := &fermatav1.LoadImageResponse{Ids: ids}
	for _, id := range ids {
		img, err := s.images.Resolve(id)
		if err != nil {
			return err
		}
		resp.References = append(resp.References, img.RepoTags...)
	}
	return in.SendAndClose(resp)
}

// chunks reads the archive out of the stream's messages.
type chunks struct {
	next func() (*fermatav1.LoadImageRequest, error)
	rest []byte
}

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.next()
		if err != nil {
			return 0, err
		}
		c.rest = m.GetChunk()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// ExportImage sends an image as an OCI layout in a tar stream.
func (s *service) ExportImage(req *fermatav1.ExportImageRequest, out grpc.ServerStreamingServer[fermatav1.ExportImageResponse]) error {
	return s.images.Export(out.Context(), req.GetImage(), sender(func(p []byte) error {
		return out.Send(&fermatav1.ExportImageResponse{Chunk: p})
	}))
}

// sender is an io.Writer over messages.
type sender func([]byte) error

// Write implements io.Writer.
func (s sender) Write(p []byte) (int, error) {
	for done := 0; done < len(p); done += exportChunk {
		if err := s(p[done:min(done+exportChunk, len(p))]); err != nil {
			return done, err
		}
	}
	return len(p), nil
}
