package cri

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/image"
)

// imageCalls is ImageService.
type imageCalls struct {
	runtimeapi.UnimplementedImageServiceServer
	images   Images
	handlers []*runtimeapi.RuntimeHandler
}

var _ runtimeapi.ImageServiceServer = (*imageCalls)(nil)

// ListImages lists images; a filter selects by any name (LIM-1).
func (i *imageCalls) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	list, err := i.list(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: list}, nil
}

// StreamImages lists images in parts.
func (i *imageCalls) StreamImages(req *runtimeapi.StreamImagesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := i.list(req.GetFilter())
	if err != nil {
		return err
	}
	return batch(list, func(part []*runtimeapi.Image) error { return to.Send(&runtimeapi.StreamImagesResponse{Images: part}) })
}

func (i *imageCalls) list(filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	list := []*runtimeapi.Image{}
	if name := filter.GetImage().GetImage(); name != "" {
		img, err := i.images.Resolve(name)
		if errs.Is(err, errs.NotFound) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list images: filter.image.image: %w", err)
		}
		return append(list, criImage(img)), nil
	}
	for _, img := range i.images.List() {
		list = append(list, criImage(img))
	}
	return list, nil
}

// ImageStatus describes an image; one that is not there is no error (IMS-1).
func (i *imageCalls) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	img, err := i.images.Resolve(req.GetImage().GetImage())
	if errs.Is(err, errs.NotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image status: image.image: %w", err)
	}
	resp := &runtimeapi.ImageStatusResponse{Image: criImage(img)}
	if req.GetVerbose() {
		resp.Info = map[string]string{"info": jsonInfo(map[string]any{
			"chainID": img.ChainID, "layers": img.LayerIDs, "manifest": img.ManifestDigest, "created": img.Created,
			"imageSpec": map[string]any{"config": img.Config},
		})}
	}
	return resp, nil
}

// PullImage fetches an image; the answer is its ID, the same as everywhere else (PUL-1).
func (i *imageCalls) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := i.checkHandler(req.GetImage().GetRuntimeHandler()); err != nil {
		return nil, err
	}
	id, err := i.images.Pull(ctx, image.Pull{Ref: req.GetImage().GetImage(), Credentials: credentials(req.GetAuth())})
	if errors.Is(err, image.ErrRegistryUnavailable) {
		// The kubelet knows this failure by the first word of the text, and takes a text as it is only from code Unknown (GEN-6).
		return nil, status.Error(codes.Unknown, err.Error())
	}
	if errs.Is(err, errs.InvalidArgument) {
		return nil, fmt.Errorf("pull image: image.image %.200q: %w", req.GetImage().GetImage(), err)
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}

func (i *imageCalls) checkHandler(name string) error {
	for _, h := range i.handlers {
		if h.GetName() == name {
			return nil
		}
	}
	return errs.New(errs.InvalidArgument, "pull image: image.runtime_handler: no handler %q here", name)
}

func credentials(a *runtimeapi.AuthConfig) *image.Credentials {
	if a == nil {
		return nil
	}
	return &image.Credentials{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(), ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
}

// RemoveImage removes an image with all its names; unknown is fine (RIM-1).
func (i *imageCalls) RemoveImage(ctx context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if req.GetImage().GetImage() == "" {
		return nil, errs.New(errs.InvalidArgument, "remove image: image.image: missing")
	}
	if err := i.images.Remove(ctx, req.GetImage().GetImage()); err != nil && !errs.Is(err, errs.NotFound) {
		return nil, fmt.Errorf("remove image: image.image: %w", err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo says what the store takes on disk (IFS-1).
func (i *imageCalls) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	bytes, inodes, err := i.images.Usage()
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{
		Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: i.images.Root()},
		UsedBytes: &runtimeapi.UInt64Value{Value: bytes}, InodesUsed: &runtimeapi.UInt64Value{Value: inodes},
	}}}, nil
}

// criImage is an image in the CRI's form: its user as a number or as a name, never both (IMS-2).
func criImage(img *image.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: img.Size, Pinned: img.Pinned,
		Spec: &runtimeapi.ImageSpec{Image: img.ID, Annotations: img.Annotations},
	}
	user, _, _ := strings.Cut(img.Config.User, ":")
	if user == "" {
		user = "0" // an image without a user runs as root
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}
