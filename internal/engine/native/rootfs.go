package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// What is known about how overlay takes its lower layers, in Handler.appends and Handler.appendsMounts.
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

// overlay stacks a rootfs as a detached mount, its layers numbered for u (nil: as they are).
func (h *Handler) overlay(r engine.Rootfs, u *users) (*linux.FD, error) {
	if len(r.Lower) == 0 {
		return nil, errs.New(errs.InvalidArgument, "mount rootfs: no layers")
	}
	if r.Upper == "" && len(r.Lower) == 1 && (r.Label == "" || h.skeleton == "") { // overlay wants two: a clone of the one is the same, read-only
		return cloneReadOnly(r.Lower[0], u)
	}
	switch {
	case r.Upper != "" && h.skeleton != "":
		r.Lower = append(slices.Clone(r.Lower), h.skeleton)
	case r.Upper == "" && len(r.Lower) == 1: // to be labelled, which a clone cannot be; the second is empty
		r.Lower = append(slices.Clone(r.Lower), path.Join(h.skeleton, "dev"))
	}
	if u == nil {
		return stack(&h.appends, func() (*linux.FD, error) { return newOverlay(r) }, func() (*linux.FD, error) { return oldOverlay(r, nil) })
	}
	if r.Upper != "" { // overlay refuses to write to an idmapped upper directory; what it holds is new and has owners of the host's numbering
		uid, gid := u.root()
		if err := os.Chown(r.Upper, int(uid), int(gid)); err != nil {
			return nil, fmt.Errorf("mount rootfs: %w", err)
		}
	}
	return stack(&h.appendsMounts, func() (*linux.FD, error) { return newMappedOverlay(r, u) }, func() (*linux.FD, error) { return oldOverlay(r, u) })
}

// tooOld are errors that may mean: no such option, or not by descriptor, or not of a detached mount (which overlay takes for none).
var tooOld = []syscall.Errno{syscall.EINVAL, syscall.EBADF, syscall.EOPNOTSUPP}

// stack tries a newer way of making an overlay and then the older one, until one is known to work.
func stack(known *atomic.Int32, newer, older func() (*linux.FD, error)) (*linux.FD, error) {
	how := known.Load()
	if how == appendsNo {
		return older()
	}
	m, err := newer()
	if err == nil {
		known.Store(appendsYes)
		return m, nil
	}
	if how == appendsYes || !slices.ContainsFunc(tooOld, func(e syscall.Errno) bool { return errors.Is(err, e) }) {
		return nil, err
	}
	if m, old := older(); old == nil {
		known.Store(appendsNo)
		return m, nil
	}
	return nil, err
}

func cloneReadOnly(dir string, u *users) (*linux.FD, error) {
	m, err := cloneLayer(dir, u)
	if err != nil {
		return nil, err
	}
	if err := m.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly, Propagation: msPrivate}); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// cloneLayer is a layer as a detached mount, numbered for u.
func cloneLayer(dir string, u *users) (*linux.FD, error) {
	d, err := linux.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	m, err := d.CloneMount(false)
	if err != nil || u == nil {
		return m, err
	}
	if err := u.renumber(m, "layer "+dir); err != nil {
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
	return makeOverlay(labelled(append(options, upperOptions(r)...), r.Label))
}

// newMappedOverlay gives the layers as idmapped mounts, by descriptor (Linux 6.13, of detached mounts 6.15). They are open until overlay has its
// own clones of them.
func newMappedOverlay(r engine.Rootfs, u *users) (*linux.FD, error) {
	options := []linux.Option{{Key: "source", Value: "overlay"}}
	for _, l := range r.Lower {
		m, err := cloneLayer(l, u)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		options = append(options, linux.Option{Key: "lowerdir+", FD: m})
	}
	return makeOverlay(labelled(append(options, upperOptions(r)...), r.Label))
}

func upperOptions(r engine.Rootfs) []linux.Option {
	if r.Upper == "" {
		return nil
	}
	options := []linux.Option{{Key: "upperdir", Value: r.Upper}, {Key: "workdir", Value: r.Work}}
	if r.Volatile {
		options = append(options, linux.Option{Key: "volatile"})
	}
	return options
}

func makeOverlay(options []linux.Option) (*linux.FD, error) {
	for i, o := range options {
		if len(o.Value) <= maxOption || o.Key == contextOption {
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
// over a page of names goes by the short names of descriptors. For u, layers are covered by idmapped clones of themselves (Linux 5.19) in the copy
// of the mount namespace in which this happens.
func oldOverlay(r engine.Rootfs, u *users) (*linux.FD, error) {
	target, rest := r.Lower[0], ""
	if r.Upper != "" {
		target = path.Dir(r.Upper)
		rest = ",upperdir=" + escapeOption(r.Upper) + ",workdir=" + escapeOption(r.Work)
		if r.Volatile {
			rest += ",volatile"
		}
	}
	if r.Label != "" {
		rest += "," + contextOption + `="` + r.Label + `"` // the kernel wants quotes here: a label has commas
	}
	return linux.NewMountOld("overlay", target, func() (string, []*linux.FD, error) {
		if u != nil {
			if err := coverLayers(r.Lower, u); err != nil {
				return "", nil, err
			}
		}
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

func coverLayers(layers []string, u *users) error {
	for _, l := range layers {
		if err := coverLayer(l, u); err != nil {
			return err
		}
	}
	return nil
}

func coverLayer(layer string, u *users) error {
	at, err := linux.OpenDir(layer)
	if err != nil {
		return err
	}
	defer at.Close()
	m, err := cloneLayer(layer, u)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.MoveMountTo(at)
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
// caller's to close, its owners numbered for a pod's users (nil: as they are) and its files labelled (label "": as they are). A subPath that is
// not there is NotFound; a link in it leads nowhere outside the image.
func (h *Handler) ImageVolume(layers []string, subPath string, pod *spec.Users, label string) (*linux.FD, error) {
	var u *users
	if pod != nil {
		ns, err := h.newUserNamespace(pod)
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		u = &users{pod, ns}
	}
	m, err := h.overlay(engine.Rootfs{Lower: layers, Label: label}, u)
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
	root, err := h.overlay(engine.Rootfs{Lower: layers}, nil)
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
