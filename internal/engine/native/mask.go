package native

import (
	"path"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/launch"
)

// readOnlyPaths covers paths by read-only clones of themselves. What is not there needs no cover.
func (r *root) readOnlyPaths(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	clone, readOnly := r.NewSlot(), r.MountAttr(mountAttrReadOnly, 0, 0, 0)
	for _, p := range paths {
		if !path.IsAbs(p) {
			return errs.New(errs.InvalidArgument, "linux.readonlyPaths: %q is not absolute", p)
		}
		p = path.Clean(p)
		missing := r.NewLabel()
		r.Do("find "+p, launch.Openat2, r.number, p, r.inRoot, launch.OpenHowSize).Save(r.at).JumpOnError(missing, syscall.ENOENT)
		r.Do("clone "+p, launch.OpenTree, r.at, "", openTreeClone|oCloexec|atEmptyPath|atRecursive).Save(clone)
		r.Do("set read-only "+p, launch.MountSetattr, clone, "", atEmptyPath|atRecursive, readOnly, launch.MountAttrSize)
		r.Do("cover read-only "+p, launch.MoveMount, clone, "", r.at, "", moveMountFEmptyPath|moveMountTEmptyPath)
		r.Place(missing)
	}
	return nil
}

// maskedPaths covers files by the nursery's null device and directories by its empty one (CVE-2025-31133: the container has no part in
// either). What is not there needs no cover.
func (r *root) maskedPaths(paths []string) error {
	cover := r.NewSlot()
	for _, p := range paths {
		if !path.IsAbs(p) {
			return errs.New(errs.InvalidArgument, "linux.maskedPaths: %q is not absolute", p)
		}
		p = path.Clean(p)
		missing, file, found := r.NewLabel(), r.NewLabel(), r.NewLabel()
		r.Do("find directory "+p, launch.Openat2, r.number, p, r.inRootDir, launch.OpenHowSize).Save(r.at).
			JumpOnError(file, syscall.ENOTDIR).JumpOnError(missing, syscall.ENOENT)
		r.Do("clone empty directory", launch.OpenTree, atFDCWD, nurseryEmpty, openTreeClone|oCloexec).Save(cover)
		r.Goto(found)
		r.Place(file)
		r.Do("find file "+p, launch.Openat2, r.number, p, r.inRoot, launch.OpenHowSize).Save(r.at)
		r.Do("clone null device", launch.OpenTree, atFDCWD, nurseryNull, openTreeClone|oCloexec).Save(cover)
		r.Place(found)
		r.Do("mask "+p, launch.MoveMount, cover, "", r.at, "", moveMountFEmptyPath|moveMountTEmptyPath)
		r.Place(missing)
	}
	return nil
}
