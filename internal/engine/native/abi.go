package native

import "syscall"

// Numbers of the kernel's interface that programs use, equal on amd64 and arm64 (include/uapi/linux). syscall.O_* where they differ.
const (
	atFDCWD     = -100
	atEmptyPath = 0x1000
	atRecursive = 0x8000

	oPath      = 0x200000
	oDirectory = syscall.O_DIRECTORY
	oCloexec   = syscall.O_CLOEXEC

	resolveNoMagiclinks = 0x02
	resolveNoSymlinks   = 0x04
	resolveInRoot       = 0x10

	openTreeClone = 0x1 // OPEN_TREE_CLOEXEC is O_CLOEXEC

	moveMountFEmptyPath = 0x04
	moveMountTEmptyPath = 0x40

	fsopenCloexec  = 1
	fsmountCloexec = 1
	fsconfigCreate = 6

	mntDetach = 2

	mountAttrReadOnly    = 0x01
	mountAttrNoSuid      = 0x02
	mountAttrNoDev       = 0x04
	mountAttrNoExec      = 0x08
	mountAttrAtime       = 0x70 // mask
	mountAttrNoAtime     = 0x10
	mountAttrStrictAtime = 0x20

	msPrivate = 1 << 18
	msSlave   = 1 << 19
	msShared  = 1 << 20

	prSetKeepCaps        = 8
	prCapBSetDrop        = 24
	prSetNoNewPrivs      = 38
	prCapAmbient         = 47
	prCapAmbientRaise    = 2
	prCapAmbientClear    = 4
	seccompSetModeFilter = 1

	tiocsctty = 0x540e

	cloneParent = 0x8000
	sigSetMask  = 2

	// maxTries bounds how often openat2(2) is tried when renames or mounts elsewhere disturb its walk (EAGAIN).
	maxTries = 3
)
