package native

import (
	"errors"
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

// maxLegacyOption bounds a mount option of filesystems still configured by one page of text: overlay below Linux 6.5.
const maxLegacyOption = 3800

// overlay stacks a rootfs as a detached mount.
func (h *Handler) overlay(r engine.Rootfs) (*linux.FD, error) {
	if len(r.Lower) == 0 {
		return nil, errs.New(errs.InvalidArgument, "mount rootfs: no layers")
	}
	if r.Upper == "" && len(r.Lower) == 1 { // overlay wants two: a clone of the one is the same, read-only
		return cloneReadOnly(r.Lower[0])
	}
	known := h.appends.Load()
	if known != appendsNo {
		m, err := linux.NewMount("overlay", 0, overlayOptions(r, appendLayers(r.Lower))...)
		if err == nil {
			h.appends.Store(appendsYes)
			return m, nil
		}
		if known == appendsYes || !errors.Is(err, syscall.EINVAL) { // EINVAL may also mean: no such option
			return nil, err
		}
	}
	lower, keep, err := joinLayers(r.Lower)
	defer linux.CloseAll(keep...)
	if err != nil {
		return nil, err
	}
	m, err := linux.NewMount("overlay", 0, overlayOptions(r, []linux.Option{lower})...)
	if err == nil {
		h.appends.Store(appendsNo)
	}
	return m, err
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

func overlayOptions(r engine.Rootfs, lower []linux.Option) []linux.Option {
	options := append([]linux.Option{{Key: "source", Value: "overlay"}}, lower...)
	if r.Upper == "" {
		return options
	}
	options = append(options, linux.Option{Key: "upperdir", Value: r.Upper}, linux.Option{Key: "workdir", Value: r.Work})
	if r.Volatile {
		options = append(options, linux.Option{Key: "volatile"})
	}
	return options
}

// appendLayers gives the layers one by one, topmost first: no limit of length and no characters that mean something.
func appendLayers(dirs []string) []linux.Option {
	var out []linux.Option
	for _, d := range dirs {
		out = append(out, linux.Option{Key: "lowerdir+", Value: d})
	}
	return out
}

// joinLayers gives the layers in one option. If that is over the page that such kernels take, they go by descriptors' short names, which
// must be kept until the filesystem exists.
func joinLayers(dirs []string) (o linux.Option, keep []*linux.FD, err error) {
	o.Key = "lowerdir"
	escaped := make([]string, len(dirs))
	for i, d := range dirs {
		escaped[i] = strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(d)
	}
	if o.Value = strings.Join(escaped, ":"); len(o.Value) <= maxLegacyOption {
		return o, nil, nil
	}
	for i, d := range dirs {
		f, err := linux.OpenDir(d)
		if err != nil {
			return o, keep, err
		}
		keep = append(keep, f)
		escaped[i] = f.Path()
	}
	o.Value = strings.Join(escaped, ":")
	return o, keep, nil
}

// ReadRootfsFile reads a regular file of an image: path is resolved inside the stack of layers (topmost first) as a process in it would,
// and what is no regular file or over limit bytes is refused, without a wait (CVE-2024-9676). NotFound if there is none.
func (h *Handler) ReadRootfsFile(layers []string, path string, limit int) ([]byte, error) {
	root, err := h.overlay(engine.Rootfs{Lower: layers})
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return readRegular(root, path, limit)
}

func readRegular(root *linux.FD, path string, limit int) ([]byte, error) {
	// First a location: opening a FIFO or a device for reading would wait or do something.
	at, err := root.OpenInRoot(path, oPath, 0)
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
		return nil, errs.New(errs.InvalidArgument, "read %s of rootfs: not a regular file", path)
	}
	if st.Size > int64(limit) {
		return nil, errs.New(errs.InvalidArgument, "read %s of rootfs: %d bytes are over %d", path, st.Size, limit)
	}
	f, err := linux.Open(at.Path(), syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadAll(limit)
}
