package pod

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
	"fermata/internal/volume"
)

// Volumes opens images as volumes.
type Volumes interface {
	// ImageVolume is an image, or the directory at subPath inside it, as a read-only mount attached nowhere, its owners numbered for users (nil: as
	// they are), its files with an SELinux label ("": as they are); the caller's to close.
	ImageVolume(layers []string, subPath string, users *spec.Users, label string) (*linux.FD, error)
}

// ImageVolume is an image that a container mounts (MNT-10), as it was when the container was created.
type ImageVolume struct {
	// Mount is the index in the configuration's mounts, Path where it is in the container, clean.
	Mount   int      `json:"mount"`
	Path    string   `json:"path"`
	ImageID string   `json:"imageID"`
	Lowers  []string `json:"lowers"`
	SubPath string   `json:"subPath,omitempty"`
}

// imageVolumeFailed is the word by which the kubelet knows this failure (GEN-6).
const imageVolumeFailed = "ImageVolumeMountFailed"

// holdImageVolumes finds the images that a container mounts, keeps each under a user of its own, and makes sure that they can be mounted.
func (m *Manager) holdImageVolumes(r *ContainerRecord) error {
	mounts := r.Config.M.GetMounts()
	for i, mount := range mounts {
		if mount.GetImage().GetImage() == "" {
			continue
		}
		if !mount.GetReadonly() || mount.GetHostPath() != "" {
			return errs.New(errs.InvalidArgument, "config.mounts[%d]: an image volume is readonly and has no host_path", i)
		}
		v := ImageVolume{Mount: i, Path: containerPath(mount), SubPath: mount.GetImageSubPath()}
		for j, other := range mounts {
			if i != j && containerPath(other) == v.Path {
				return errs.New(errs.InvalidArgument, "config.mounts[%d].container_path: mounts[%d] is at %s too", i, j, v.Path)
			}
		}
		if err := m.holdImageVolume(r, v, mount.GetImage().GetImage()); err != nil {
			return fmt.Errorf("config.mounts[%d]: %s: %w", i, imageVolumeFailed, err)
		}
	}
	return nil
}

func (m *Manager) holdImageVolume(r *ContainerRecord, v ImageVolume, ref string) error {
	img, err := m.Images.Resolve(ref)
	if err != nil {
		return err
	}
	v.ImageID, v.Lowers = img.ID, img.Lowers
	r.ImageVolumes = append(r.ImageVolumes, v) // first, so that it is released whatever comes
	if err := m.Images.Hold(img.ID, volumeUser(r, len(r.ImageVolumes)-1)); err != nil {
		return err
	}
	mount, err := m.Volumes.ImageVolume(v.Lowers, v.SubPath, nil, "")
	if err != nil {
		return linux.Refused(err)
	}
	return mount.Close()
}

// openImageVolumes opens a container's image volumes for its users and with its label, by path in the container.
func (m *Manager) openImageVolumes(r *ContainerRecord, s *specs.Spec) (map[string]*linux.FD, error) {
	opened := map[string]*linux.FD{}
	for _, v := range r.ImageVolumes {
		mount, err := m.Volumes.ImageVolume(v.Lowers, v.SubPath, spec.UsersOf(s), s.Linux.MountLabel)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("config.mounts[%d]: %s: %w", v.Mount, imageVolumeFailed, err), closeImageVolumes(opened))
		}
		opened[v.Path] = mount
	}
	return opened, nil
}

func closeImageVolumes(opened map[string]*linux.FD) error {
	var failed []error
	for _, fd := range opened {
		failed = append(failed, fd.Close())
	}
	return errors.Join(failed...)
}

// holdImages keeps every image of a recorded container.
func (m *Manager) holdImages(r *ContainerRecord) error {
	failed := []error{m.Images.Hold(r.ImageID, r.ID)}
	for i, v := range r.ImageVolumes {
		failed = append(failed, m.Images.Hold(v.ImageID, volumeUser(r, i)))
	}
	return errors.Join(failed...)
}

// releaseImages gives them up.
func (m *Manager) releaseImages(r *ContainerRecord) error {
	failed := []error{m.Images.Release(r.ID)}
	for i := range r.ImageVolumes {
		failed = append(failed, m.Images.Release(volumeUser(r, i)))
	}
	return errors.Join(failed...)
}

func volumeUser(r *ContainerRecord, i int) string { return r.ID + "/volume" + strconv.Itoa(i) }

func containerPath(m *runtimeapi.Mount) string { return path.Clean("/" + m.GetContainerPath()) }

// statusMounts are the mounts as asked for (MNT-13), with what image each image volume is of.
func statusMounts(r *ContainerRecord) []*runtimeapi.Mount {
	mounts := r.Config.M.GetMounts()
	if len(r.ImageVolumes) == 0 {
		return mounts
	}
	mounts = slices.Clone(mounts)
	for _, v := range r.ImageVolumes {
		mount := proto.Clone(mounts[v.Mount]).(*runtimeapi.Mount)
		mount.Image.ImageRef = v.ImageID
		mounts[v.Mount] = mount
	}
	return mounts
}

// anonymousVolumes are the directories of the image's volumes, by path in the container; they are the container's own and go with it (MNT-11).
func (m *Manager) anonymousVolumes(r *ContainerRecord, img *Image) (map[string]string, error) {
	paths, err := spec.AnonymousVolumes(r.Config.M, img.Config)
	if err != nil {
		return nil, err
	}
	volumes := make(map[string]string, len(paths))
	for i, p := range paths {
		volumes[p] = filepath.Join(m.containerDir(r), "volumes", strconv.Itoa(i))
	}
	return volumes, nil
}

// makeAnonymousVolumes makes them, with what the image has there.
func (m *Manager) makeAnonymousVolumes(r *ContainerRecord, img *Image) error {
	volumes, err := m.anonymousVolumes(r, img)
	if err != nil || len(volumes) == 0 {
		return err
	}
	root, err := m.Volumes.ImageVolume(img.Lowers, "", nil, "")
	if err != nil {
		return err
	}
	defer root.Close()
	for at, dir := range volumes {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		to, err := linux.Open(dir, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		err = volume.CopyUp(root, at, to)
		to.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
