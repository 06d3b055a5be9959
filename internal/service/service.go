// Package service is the gRPC edge of fermata.v1, what CRI has no word for, as package cri is CRI's: a method checks its request, calls
// what does the work, and builds the answer. Errors get their codes from package cri's interceptors, which the server of both has.
//
// Sessions (exec, attach, port-forward) are here beside those of package stream, which are for clients that speak SPDY or WebSocket, as CRI has
// it: over the socket there is no second connection to find and no token; a command has its terminal's size before its first instruction; an
// error keeps its kind.
package service

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"

	"google.golang.org/grpc"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/config"
	"fermata/internal/doctor"
	"fermata/internal/explain"
	"fermata/internal/image"
	"fermata/internal/pod"
)

// Options are what a Service is made of; all members are needed.
type Options struct {
	// Version is the daemon's.
	Version string
	Config  *config.Config
	Images  *image.Store
	Pods    *pod.Manager
	// Checks are what Doctor looks at; Notes say what the machine has and lacks.
	Checks  []doctor.Check
	Debts   Debtor
	Notes   func() []string
	Explain *explain.Explainer
}

// Service answers fermata.v1 until End.
type Service struct {
	fermatav1.UnimplementedFermataServer
	version string
	cfg     *config.Config
	images  *image.Store
	checks  []doctor.Check
	debts   Debtor
	notes   func() []string
	runtime Runtime
	explain *explain.Explainer
	ctx     context.Context // ends with End; sessions' do
	end     context.CancelFunc
}

// Register makes the service part of a server.
func Register(s *grpc.Server, o Options) *Service {
	ctx, end := context.WithCancel(context.Background())
	all := &Service{
		version: o.Version, cfg: o.Config, images: o.Images, checks: o.Checks, debts: o.Debts, notes: o.Notes, runtime: o.Pods, explain: o.Explain, ctx: ctx, end: end,
	}
	fermatav1.RegisterFermataServer(s, all)
	return all
}

// End ends the sessions, which would go on for as long as their clients like: the server that stops gracefully waits for them.
func (s *Service) End() { s.end() }

// Version says which daemon answers.
func (s *Service) Version(context.Context, *fermatav1.VersionRequest) (*fermatav1.VersionResponse, error) {
	return &fermatav1.VersionResponse{
		Version: s.version, Build: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH, Pid: int32(os.Getpid()),
		Root: s.cfg.Root, Instance: s.cfg.Instance(),
	}, nil
}

// LoadImage stores the images of an archive.
func (s *Service) LoadImage(in grpc.ClientStreamingServer[fermatav1.LoadImageRequest, fermatav1.LoadImageResponse]) error {
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
func (s *Service) ExportImage(req *fermatav1.ExportImageRequest, out grpc.ServerStreamingServer[fermatav1.ExportImageResponse]) error {
	return s.images.Export(out.Context(), req.GetImage(), sender(func(p []byte) error {
		return out.Send(&fermatav1.ExportImageResponse{Chunk: p})
	}))
}

// PullImage fetches an image and tells how far it is.
func (s *Service) PullImage(req *fermatav1.PullImageRequest, out grpc.ServerStreamingServer[fermatav1.PullImageResponse]) error {
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
