package spec

import (
	"math"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// Users says how a user namespace numbers users and groups, one range each that begins with root (CRI UserNamespace, of which
// the kubelet sends nothing else). Nil is the host's numbering, and every method means it so.
type Users struct{ UIDs, GIDs specs.LinuxIDMapping }

// PodUsers is what a pod's userns_options ask for, nil for the host's user namespace. Refusals are errs.InvalidArgument.
func PodUsers(sandbox *runtimeapi.PodSandboxConfig) (*Users, error) {
	sc := sandbox.GetLinux().GetSecurityContext()
	options := sc.GetNamespaceOptions()
	users, err := parseUsers(options.GetUsernsOptions())
	if users == nil || err != nil {
		return nil, err
	}
	const field = "namespace_options.userns_options: "
	switch {
	case sc.GetPrivileged():
		return nil, errs.New(errs.InvalidArgument, field+"a privileged pod must be root of the host, it cannot have a user namespace")
	case options.GetPid() == runtimeapi.NamespaceMode_NODE:
		return nil, errs.New(errs.InvalidArgument, field+"a pod with a user namespace cannot have the host's PID namespace")
	case options.GetIpc() == runtimeapi.NamespaceMode_NODE:
		return nil, errs.New(errs.InvalidArgument, field+"a pod with a user namespace cannot have the host's IPC namespace")
	}
	return users, nil
}

// parseUsers understands userns_options; nil and NODE mean the host's.
func parseUsers(o *runtimeapi.UserNamespace) (*Users, error) {
	const field = "namespace_options.userns_options"
	switch {
	case o == nil || o.Mode == runtimeapi.NamespaceMode_NODE:
		if len(o.GetUids()) != 0 || len(o.GetGids()) != 0 {
			return nil, errs.New(errs.InvalidArgument, field+": mappings make no sense with mode NODE")
		}
		return nil, nil
	case o.Mode != runtimeapi.NamespaceMode_POD:
		return nil, errs.New(errs.InvalidArgument, field+".mode: %v is neither POD nor NODE", o.Mode)
	}
	users, err := parseMappings(field, o.Uids, o.Gids)
	if err == nil && users.UIDs.Size != users.GIDs.Size {
		return nil, errs.New(errs.InvalidArgument, field+": %d users and %d groups: the ranges must be of one length", users.UIDs.Size, users.GIDs.Size)
	}
	return users, err
}

// parseMappings reads a pair of mappings; of is the field they are of.
func parseMappings(of string, uids, gids []*runtimeapi.IDMapping) (*Users, error) {
	var u Users
	for _, m := range []struct {
		name string
		from []*runtimeapi.IDMapping
		to   *specs.LinuxIDMapping
	}{{"uids", uids, &u.UIDs}, {"gids", gids, &u.GIDs}} {
		bad := func(why string, args ...any) error {
			return errs.New(errs.InvalidArgument, of+": "+m.name+": "+why, args...)
		}
		if len(m.from) != 1 || m.from[0] == nil {
			return nil, bad("%d mappings, there must be exactly one", len(m.from))
		}
		only := m.from[0]
		switch {
		case only.ContainerId != 0:
			return nil, bad("container_id %d: the mapping must begin with 0", only.ContainerId)
		case only.Length == 0:
			return nil, bad("length: must be above 0")
		case uint64(only.HostId)+uint64(only.Length) > math.MaxUint32: // the last number means "none"
			return nil, bad("host_id %d with length %d goes beyond the last ID", only.HostId, only.Length)
		}
		*m.to = specs.LinuxIDMapping{HostID: only.HostId, Size: only.Length}
	}
	return &u, nil
}

// UsersOf is the user namespace that a spec of [Container] has.
func UsersOf(s *specs.Spec) *Users {
	if s.Linux == nil {
		return nil
	}
	return usersFrom(s.Linux.UIDMappings, s.Linux.GIDMappings)
}

// MountUsers is how a mount of a spec numbers the owners of its files, nil for as they are.
func MountUsers(m specs.Mount) *Users { return usersFrom(m.UIDMappings, m.GIDMappings) }

func usersFrom(uids, gids []specs.LinuxIDMapping) *Users {
	if len(uids) != 1 || len(gids) != 1 {
		return nil
	}
	return &Users{UIDs: uids[0], GIDs: gids[0]}
}

// mappings are the two as a spec has them.
func (u *Users) mappings() (uids, gids []specs.LinuxIDMapping) {
	if u == nil {
		return nil, nil
	}
	return []specs.LinuxIDMapping{u.UIDs}, []specs.LinuxIDMapping{u.GIDs}
}

// Root is who root inside is on the host.
func (u *Users) Root() (uid, gid uint32) {
	if u == nil {
		return 0, 0
	}
	return u.UIDs.HostID, u.GIDs.HostID
}

// HostUID is a user's number on the host; without one in the namespace it is nobody there, which InvalidArgument says.
func (u *Users) HostUID(uid uint32) (uint32, error) {
	if u == nil {
		return uid, nil
	}
	return outside("user", u.UIDs, uid)
}

// HostGID is a group's number on the host.
func (u *Users) HostGID(gid uint32) (uint32, error) {
	if u == nil {
		return gid, nil
	}
	return outside("group", u.GIDs, gid)
}

func outside(what string, m specs.LinuxIDMapping, id uint32) (uint32, error) {
	if id < m.ContainerID || id-m.ContainerID >= m.Size {
		return 0, errs.New(errs.InvalidArgument, "%s %d is outside of the pod's user namespace, which has %d", what, id, m.Size)
	}
	return m.HostID + id - m.ContainerID, nil
}

// checkIdentity refuses a process whose user or groups the pod's user namespace does not have.
func (u *Users) checkIdentity(id Identity) error {
	if _, err := u.HostUID(id.UID); err != nil {
		return err
	}
	for _, g := range append([]uint32{id.GID}, id.Groups...) {
		if _, err := u.HostGID(g); err != nil {
			return err
		}
	}
	return nil
}

// containerUsers is the pod's user namespace, which the container's own options may repeat and must not contradict.
func containerUsers(in Input, sc *runtimeapi.LinuxContainerSecurityContext) (*Users, error) {
	pod, err := PodUsers(in.Sandbox)
	if err != nil {
		return nil, err
	}
	own := sc.GetNamespaceOptions()
	if own.GetUsernsOptions() != nil {
		asked, err := parseUsers(own.UsernsOptions)
		if err != nil {
			return nil, err
		}
		if (asked == nil) != (pod == nil) || asked != nil && *asked != *pod {
			return nil, errs.New(errs.InvalidArgument, "linux.security_context.namespace_options.userns_options: not the pod's")
		}
	}
	if pod != nil && own.GetPid() == runtimeapi.NamespaceMode_NODE {
		return nil, errs.New(errs.InvalidArgument, "linux.security_context.namespace_options.pid: not the host's in a pod with a user namespace")
	}
	return pod, pod.checkIdentity(in.Identity)
}
