package native

import (
	"fmt"
	"path"
	"strings"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

// attach has the program attach a detached mount (a descriptor's number or a slot) at a path of the root, whose place is made if it is
// missing: in the rootfs and in our /dev now, by us alone; below a volume by the program, when the volume is there.
func (r *root) attach(dest string, kind mountKind, mount any, dir bool) error {
	dest = path.Clean(dest)
	place, nested, err := r.place(dest, dir)
	if err != nil {
		return err
	}
	switch {
	case !nested:
		r.Do("find "+dest, launch.Openat2, r.number, place, r.noLinks, launch.OpenHowSize).Save(r.at)
	default:
		r.makePlace(place, dir)
	}
	r.Do("mount "+dest, launch.MoveMount, mount, "", r.at, "", moveMountFEmptyPath|moveMountTEmptyPath)
	r.mounted = append(r.mounted, mounted{place, kind})
	return nil
}

// attachKnown attaches at a place that is known to exist below one of our own mounts.
func (r *root) attachKnown(dest string, mount any) {
	r.Do("find "+dest, launch.Openat2, r.number, dest, r.noLinks, launch.OpenHowSize).Save(r.at)
	r.Do("mount "+dest, launch.MoveMount, mount, "", r.at, "", moveMountFEmptyPath|moveMountTEmptyPath)
	r.mounted = append(r.mounted, mounted{dest, kernel})
}

// place finds where dest is, and makes it if we can. nested says that it is below an attached volume, of which only the program can
// know more.
func (r *root) place(dest string, dir bool) (place string, nested bool, err error) {
	if over := r.over(dest); over != nil {
		return r.placeIn(*over, dest, dir)
	}
	t, err := locate(r.fd, dest)
	if err != nil {
		return "", false, err
	}
	if t.path == "/" {
		return "", false, errs.New(errs.InvalidArgument, "the root itself cannot be mounted on")
	}
	if kernelTree(dest) && t.path != dest {
		return "", false, errs.New(errs.InvalidArgument, "rootfs: %s is a symbolic link: %w", dest, syscall.ELOOP)
	}
	if r.over(t.path) != nil { // a link of the rootfs leads below a volume: the way is known to the kernel only
		return dest, true, nil
	}
	return t.path, false, r.users.makeTarget(r.fd, t, dir)
}

func kernelTree(p string) bool { return p == "/proc" || p == "/sys" || p == "/dev" }

// over is the innermost mount that a path is below of (or at).
func (r *root) over(p string) *mounted {
	var best *mounted
	for i, m := range r.mounted {
		if (p == m.path || strings.HasPrefix(p, m.path+"/")) && (best == nil || len(m.path) >= len(best.path)) {
			best = &r.mounted[i]
		}
	}
	return best
}

func (r *root) placeIn(over mounted, dest string, dir bool) (string, bool, error) {
	if dest == over.path { // a second mount at one place
		return dest, false, nil
	}
	if over.kind != device {
		return dest, true, nil
	}
	t, err := locate(r.dev, strings.TrimPrefix(dest, over.path))
	if err != nil {
		return "", false, err
	}
	return over.path + t.path, false, r.users.makeTarget(r.dev, t, dir)
}

// makePlace opens a path below a volume as the mount target, making what is missing, component by component, each by the descriptor of the one
// before: whatever the volume's owner changes meanwhile, nothing outside the root is touched (CVE-2021-30465, CVE-2024-45310).
func (r *root) makePlace(dest string, dir bool) {
	found, parent := r.NewLabel(), r.NewSlot()
	r.Do("find "+dest, launch.Openat2, r.number, dest, r.inRoot, launch.OpenHowSize).Save(r.at).
		Retry(maxTries, syscall.EAGAIN).Ignore(syscall.ENOENT).JumpIfPositive(found)
	parts := components(dest)
	r.Let("begin at the root", parent, r.number)
	for i, name := range parts[:len(parts)-1] {
		prefix := "/" + strings.Join(parts[:i+1], "/")
		r.Do("make "+prefix, launch.Mkdirat, parent, name, 0o755).Ignore(syscall.EEXIST)
		r.Do("go to "+prefix, launch.Openat2, r.number, prefix, r.inRootDir, launch.OpenHowSize).Save(parent).Retry(maxTries, syscall.EAGAIN)
	}
	last := parts[len(parts)-1]
	if dir {
		r.Do("make "+dest, launch.Mkdirat, parent, last, 0o755).Ignore(syscall.EEXIST)
	} else {
		r.Do("make "+dest, launch.Mknodat, parent, last, linux.TypeRegular|0o644, 0).Ignore(syscall.EEXIST)
	}
	r.Do("find "+dest, launch.Openat2, r.number, dest, r.inRoot, launch.OpenHowSize).Save(r.at).Retry(maxTries, syscall.EAGAIN)
	r.Place(found)
}

// workingDirectory makes the process's directory if it is missing.
func (r *root) workingDirectory(dir string) error {
	if !path.IsAbs(dir) {
		return errs.New(errs.InvalidArgument, "process.cwd: %q is not absolute", dir)
	}
	clean := path.Clean(dir)
	if clean == "/" {
		return nil
	}
	if over := r.over(clean); over != nil {
		if over.kind == volume && over.path != clean {
			r.makePlace(clean, true)
		}
		return nil
	}
	t, err := locate(r.fd, clean)
	if err != nil {
		return fmt.Errorf("make working directory (working_dir): %w", linux.Refused(err))
	}
	if over := r.over(t.path); over != nil {
		if over.kind == volume && over.path != t.path {
			r.makePlace(clean, true)
		}
		return nil
	}
	if t.path == "/" {
		return nil
	}
	if err := r.users.makeTarget(r.fd, t, true); err != nil {
		return fmt.Errorf("make working directory (working_dir): %w", linux.Refused(err))
	}
	return nil
}
