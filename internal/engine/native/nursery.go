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
const (
	nurseryRoot  = "/root"
	nurseryNull  = "/null"
	nurseryEmpty = "/empty"
	nurseryShm   = "/shm"
	nurseryProc  = "/proc"
)

func newNursery() (*linux.FD, error) {
	// Device nodes must work here, so no nodev: only /null is one and nobody can add another.
	fs, err := linux.NewMount("tmpfs", mountAttrNoSuid|mountAttrNoExec,
		linux.Option{Key: "size", Value: "16k"}, linux.Option{Key: "nr_inodes", Value: "16"}, linux.Option{Key: "mode", Value: "0755"})
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	for _, dir := range []string{nurseryRoot, nurseryEmpty, nurseryShm, nurseryProc} {
		if err := fs.MakeDirEntry(dir[1:], 0o755); err != nil {
			return nil, err
		}
	}
	if err := fs.MakeDeviceEntry(nurseryNull[1:], linux.TypeCharacter|0o666, 1, 3); err != nil {
		return nil, err
	}
	if err := fs.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly}); err != nil {
		return nil, err
	}
	return linux.NamespaceWithOnly(fs)
}
