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

// PullImage fetches an image and tells how far it is.
func (s *service) PullImage(req *fermatav1.PullImageRequest, out grpc.ServerStreamingServer[fermatav1.PullImageResponse]) error {
	p := image.Pull{Ref: req.GetImage(), Progress: func(at image.Progress) {
		// A client that does not read ends with its stream's context, which ends the pull; there is nothing to do about it here.
		_ = out.Send(&fermatav1.PullImageResponse{
			Bytes: uint64(at.Bytes), Total: uint64(at.Total), Layers: uint32(at.Layers), LayersTotal: uint32(at.LayersTotal),
		})
	}}
	if req.GetUsername() != "" || req.GetPassword() != "" {
		p.Credentials = &image.Credentials{Username: req.GetUsername(), Password: req.GetPassword()}
	}
	id, err := s.images.Pull(out.Context(), p)
	if err != nil {
		return err
	}
	return out.Send(&fermatav1.PullImageResponse{Id: id})
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
