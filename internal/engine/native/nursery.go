package native

import (
	"fermata/internal/linux"
)

// A nursery is a mount namespace for things to be born in: one small read-only tmpfs and no mount of the host. Entering a copy of it
// costs the same on a node with thousands of mounts, and no path in it can lead to the host. The node has one; a pod's is a copy
// in which pause stays, with what its containers share:
//
//	/root   where a container's root is attached before it becomes the root
//	/null   the null device: covers masked files (CVE-2025-31133: never the container's own)
//	/empty  an empty directory: covers masked directories
//	/shm    the pod's shared memory, a tmpfs of its own (pods with an IPC namespace)
//	/proc   the procfs of the pod's PID namespace: only its PID 1 can make it without being seen by containers
//	/sys    the sysfs of the pod's network namespace (pods with a user namespace)
//
// The mount namespace of a pod with a user namespace belongs to that. Such a one gets a procfs or sysfs only where a whole one is in sight already
// (mount_too_revealing of Linux): for containers the pod's own, for pause, who makes those, the host's in a nursery of its own, which pause
// leaves behind before anybody else is there.
const (
	nurseryRoot  = "/root"
	nurseryNull  = "/null"
	nurseryEmpty = "/empty"
	nurseryShm   = "/shm"
	nurseryProc  = "/proc"
	nurserySys   = "/sys"
)

// newNursery makes the node's; label is the SELinux label of what it has for containers to see, "" for none.
func newNursery(label string) (*linux.FD, error) {
	fs, err := nurseryTree(label)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	return linux.NamespaceWithOnly(fs)
}

// newRevealingNursery makes the one with the host's whole procfs and sysfs.
func newRevealingNursery(label string) (*linux.FD, error) {
	fs, err := nurseryTree(label)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	var below []linux.Below
	for kind, at := range map[string]string{"proc": nurseryProc, "sysfs": nurserySys} {
		m, err := linux.NewMount(kind, mountAttrNoSuid|mountAttrNoDev|mountAttrNoExec)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		below = append(below, linux.Below{Path: at[1:], Mount: m})
	}
	return linux.NamespaceWithOnly(fs, below...)
}

// nurseryTree is the tmpfs of a nursery, attached nowhere.
func nurseryTree(label string) (_ *linux.FD, err error) {
	// Device nodes must work here, so no nodev: only /null is one and nobody can add another.
	fs, err := linux.NewMount("tmpfs", mountAttrNoSuid|mountAttrNoExec,
		labelled([]linux.Option{{Key: "size", Value: "16k"}, {Key: "nr_inodes", Value: "16"}, {Key: "mode", Value: "0755"}}, label)...)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			fs.Close()
		}
	}()
	for _, dir := range []string{nurseryRoot, nurseryEmpty, nurseryShm, nurseryProc, nurserySys} {
		if err := fs.MakeDirEntry(dir[1:], 0o755); err != nil {
			return nil, err
		}
	}
	if err := fs.MakeDeviceEntry(nurseryNull[1:], linux.TypeCharacter|0o666, 1, 3); err != nil {
		return nil, err
	}
	return fs, fs.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly})
}
