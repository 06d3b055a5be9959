package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/linux"
)

// What is known about how overlay takes its lower layers, in Handler.appends.
const (
	appendsUnknown int32 = iota
	appendsYes
	appendsNo
)

const (
	// maxOption is the longest value that fsconfig(2) takes.
	maxOption = 255
	// maxOldOptions bounds what mount(2) takes, a page, with room for other options.
	maxOldOptions = 3500
)

// overlay stacks a rootfs as a detached mount.
func (h *Handler) overlay(r engine.Rootfs) (*linux.FD, error) {
	if len(r.Lower) == 0 {
		return nil, errs.New(errs.InvalidArgument, "mount rootfs: no layers")
	}
	if r.Upper == "" && len(r.Lower) == 1 { // overlay wants two: a clone of the one is the same, read-only
		return cloneReadOnly(r.Lower[0])
	}
	if r.Upper != "" && h.skeleton != "" {
		r.Lower = append(slices.Clone(r.Lower), h.skeleton)
	}
	known := h.appends.Load()
	if known == appendsNo {
		return oldOverlay(r)
	}
	m, err := newOverlay(r)
	if err == nil {
		h.appends.Store(appendsYes)
		return m, nil
	}
	if known == appendsYes || !errors.Is(err, syscall.EINVAL) { // EINVAL may also mean: no such option
		return nil, err
	}
	if m, old := oldOverlay(r); old == nil {
		h.appends.Store(appendsNo)
		return m, nil
	}
	return nil, err
}

func cloneReadOnly(dir string) (*linux.FD, error) {
	d, err := linux.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	m, err := d.CloneMount(false)
	if err != nil {
		return nil, err
	}
	if err := m.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly, Propagation: msPrivate}); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// newOverlay gives the layers one by one, topmost first: no limit to their number, and no characters that mean something.
func newOverlay(r engine.Rootfs) (*linux.FD, error) {
	options := []linux.Option{{Key: "source", Value: "overlay"}}
	for _, l := range r.Lower {
		options = append(options, linux.Option{Key: "lowerdir+", Value: l})
	}
	if r.Upper != "" {
		options = append(options, linux.Option{Key: "upperdir", Value: r.Upper}, linux.Option{Key: "workdir", Value: r.Work})
		if r.Volatile {
			options = append(options, linux.Option{Key: "volatile"})
		}
	}
	for i, o := range options {
		if len(o.Value) <= maxOption {
			continue
		}
		d, err := linux.OpenDir(o.Value)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		options[i].Value = d.Path()
	}
	return linux.NewMount("overlay", 0, options...)
}

// oldOverlay is for kernels below 6.5, where all layers are one option: by mount(2), as fsconfig(2) would cut it at 255 bytes. What is
// over a page of names goes by the short names of descriptors.
func oldOverlay(r engine.Rootfs) (*linux.FD, error) {
	target, rest := r.Lower[0], ""
	if r.Upper != "" {
		target = path.Dir(r.Upper)
		rest = ",upperdir=" + escapeOption(r.Upper) + ",workdir=" + escapeOption(r.Work)
		if r.Volatile {
			rest += ",volatile"
		}
	}
	return linux.NewMountOld("overlay", target, func() (string, []*linux.FD, error) {
		names := make([]string, len(r.Lower))
		for i, l := range r.Lower {
			names[i] = escapeOption(l)
		}
		if lower := strings.Join(names, ":"); len(lower)+len(rest) < maxOldOptions {
			return "lowerdir=" + lower + rest, nil, nil
		}
		var keep []*linux.FD
		for i, l := range r.Lower {
			d, err := linux.OpenDir(l)
			if err != nil {
				return "", keep, err
			}
			keep, names[i] = append(keep, d), d.Path()
		}
		return "lowerdir=" + strings.Join(names, ":") + rest, keep, nil
	})
}

// escapeOption hides what separates options and layers.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`).Replace(s)
}

// makeSkeleton makes the places that nearly every container's mounts need.
func makeSkeleton(dir string) error {
	for _, d := range []string{"proc", "sys", "dev", "etc"} {
		if err := os.MkdirAll(path.Join(dir, d), 0o755); err != nil {
			return fmt.Errorf("make skeleton: %w", err)
		}
	}
	for _, f := range []string{"etc/hostname", "etc/hosts", "etc/resolv.conf"} {
		file, err := linux.Open(path.Join(dir, f), syscall.O_CREAT|syscall.O_RDONLY, 0o644)
		if err != nil {
			return fmt.Errorf("make skeleton: %w", err)
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

// ImageVolume mounts an image, or the directory at subPath inside it, to be one of engine.Container.Sources: read-only, detached, the
// caller's to close. A subPath that is not there is NotFound; a link in it leads nowhere outside the image.
func (h *Handler) ImageVolume(layers []string, subPath string) (*linux.FD, error) {
	m, err := h.overlay(engine.Rootfs{Lower: layers})
	if err != nil {
		return nil, err
	}
	if len(components(subPath)) == 0 {
		return m, nil
	}
	defer m.Close()
	at, err := m.OpenInRoot(subPath, oPath|oDirectory, 0)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil, errs.As(errs.NotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	clone, err := at.CloneMount(false)
	if errors.Is(err, syscall.EINVAL) { // below Linux 6.15
		return m.CloneInside(subPath, layers[0])
	}
	return clone, err
}

// ReadRootfsFile reads a regular file of an image: name is resolved inside the stack of layers (topmost first) as a process in it would,
// and what is no regular file or over limit bytes is refused, without a wait (CVE-2024-9676). NotFound if there is none.
func (h *Handler) ReadRootfsFile(layers []string, name string, limit int) ([]byte, error) {
	root, err := h.overlay(engine.Rootfs{Lower: layers})
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return readRegular(root, name, limit)
}

func readRegular(root *linux.FD, name string, limit int) ([]byte, error) {
	// First a location: opening a FIFO or a device for reading would wait or do something.
	at, err := root.OpenInRoot(name, oPath, 0)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil, errs.As(errs.NotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	st, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode&linux.TypeMask != linux.TypeRegular {
		return nil, errs.New(errs.InvalidArgument, "read %s of rootfs: not a regular file", name)
	}
	if st.Size > int64(limit) {
		return nil, errs.New(errs.InvalidArgument, "read %s of rootfs: %d bytes are over %d", name, st.Size, limit)
	}
	f, err := linux.Open(at.Path(), syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadAll(limit)
}
