package spec

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// maxID is the greatest user or group id; the next one, -1 of 32 bits, means "leave alone" to the kernel.
const maxID = math.MaxUint32 - 1

// maxGroups is NGROUPS_MAX of Linux.
const maxGroups = 65536

// Identity is who a container's processes are.
type Identity struct {
	UID, GID uint32
	// Groups are the supplementary groups, the primary one first (CVE-2022-2995).
	Groups []uint32
	// Home is the user's directory by the image's passwd file, "/" if it is not there.
	Home string
	// Username is as asked for or found, "" if unknown.
	Username string
}

// account is a line of passwd(5).
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// ResolveUser finds a container's identity (CRI USR-1..3): the request's user, else the image's, else root. Names are looked up in the
// image's passwd and group files, given as read; digits are ids and never names (CVE-2016-3697), ids that do not fit are refused
// (CVE-2024-40635). Malformed lines are passed over.
func ResolveUser(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string, passwd, group []byte) (Identity, error) {
	field, user, groupName := "image User", imageUser, ""
	explicit := sc.GetRunAsUser() != nil || sc.GetRunAsUsername() != ""
	switch {
	case sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "":
		return Identity{}, errs.New(errs.InvalidArgument, "linux.security_context: run_as_user and run_as_username are both set")
	case sc.GetRunAsGroup() != nil && !explicit:
		return Identity{}, errs.New(errs.InvalidArgument, "linux.security_context.run_as_group is set without run_as_user or run_as_username")
	case sc.GetRunAsUser() != nil:
		field, user = "linux.security_context.run_as_user", strconv.FormatInt(sc.GetRunAsUser().Value, 10)
		if _, err := checkID(field, sc.GetRunAsUser().Value); err != nil {
			return Identity{}, err
		}
	case sc.GetRunAsUsername() != "":
		field, user = "linux.security_context.run_as_username", sc.GetRunAsUsername()
	default:
		var ok bool
		user, groupName, ok = strings.Cut(imageUser, ":")
		if ok && (user == "" || groupName == "") {
			return Identity{}, errs.New(errs.InvalidArgument, "image User: %q lacks a part", imageUser)
		}
	}
	id, err := lookupUser(field, user, passwd)
	if err != nil {
		return Identity{}, err
	}
	switch {
	case sc.GetRunAsGroup() != nil:
		id.GID, err = checkID("linux.security_context.run_as_group", sc.GetRunAsGroup().Value)
	case groupName != "":
		id.GID, err = lookupGroup(groupName, group)
	}
	if err != nil {
		return Identity{}, err
	}
	id.Groups, err = groups(id, sc, group)
	return id, err
}

func lookupUser(field, user string, passwd []byte) (Identity, error) {
	if user == "" {
		user = "0"
	}
	id := Identity{Home: "/"}
	numeric, match := digits(user), func(a account) bool { return a.name == user }
	if numeric {
		uid, err := parseID(field, user)
		if err != nil {
			return Identity{}, err
		}
		id.UID, match = uid, func(a account) bool { return a.uid == uid }
	}
	for a := range accounts(passwd) {
		if match(a) {
			id.UID, id.GID, id.Username = a.uid, a.gid, a.name
			if a.home != "" {
				id.Home = a.home
			}
			return id, nil
		}
	}
	if !numeric {
		return Identity{}, errs.New(errs.InvalidArgument, "%s: no user %q in the image's /etc/passwd", field, user)
	}
	return id, nil
}

func lookupGroup(name string, group []byte) (uint32, error) {
	if digits(name) {
		return parseID("image User", name)
	}
	for line := range bytes.Lines(group) {
		f := fields(line)
		if len(f) < 3 || f[0] != name {
			continue
		}
		if gid, err := parseID("gid", f[2]); err == nil {
			return gid, nil
		}
	}
	return 0, errs.New(errs.InvalidArgument, "image User: no group %q in the image's /etc/group", name)
}

// groups are the primary group, those the image puts the user in (policy Merge only), and those asked for.
func groups(id Identity, sc *runtimeapi.LinuxContainerSecurityContext, group []byte) ([]uint32, error) {
	out := []uint32{id.GID}
	switch sc.GetSupplementalGroupsPolicy() {
	case runtimeapi.SupplementalGroupsPolicy_Strict:
	case runtimeapi.SupplementalGroupsPolicy_Merge:
		out = append(out, memberships(id.Username, group)...)
	default:
		return nil, errs.New(errs.InvalidArgument, "linux.security_context.supplemental_groups_policy: unknown policy %v", sc.GetSupplementalGroupsPolicy())
	}
	for _, g := range sc.GetSupplementalGroups() {
		gid, err := checkID("linux.security_context.supplemental_groups", g)
		if err != nil {
			return nil, err
		}
		out = append(out, gid)
	}
	out = unique(out)
	if len(out) > maxGroups {
		return nil, errs.New(errs.InvalidArgument, "linux.security_context.supplemental_groups: %d groups are over the kernel's %d", len(out), maxGroups)
	}
	return out, nil
}

// memberships are the groups whose member list names the user, in the file's order.
func memberships(user string, group []byte) []uint32 {
	var out []uint32
	if user == "" {
		return nil
	}
	for line := range bytes.Lines(group) {
		f := fields(line)
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			continue
		}
		if gid, err := parseID("gid", f[2]); err == nil {
			out = append(out, gid)
		}
	}
	return out
}

// unique keeps the first of each, in order.
func unique(ids []uint32) []uint32 {
	seen := make(map[uint32]bool, len(ids))
	return slices.DeleteFunc(ids, func(id uint32) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
}

// accounts yields the lines of a passwd file that make sense.
func accounts(passwd []byte) func(yield func(account) bool) {
	return func(yield func(account) bool) {
		for line := range bytes.Lines(passwd) {
			f := fields(line)
			if len(f) < 4 || f[0] == "" {
				continue
			}
			f = append(f, "", "") // a short line lacks comment and home
			uid, err1 := parseID("uid", f[2])
			gid, err2 := parseID("gid", f[3])
			if err1 == nil && err2 == nil && !yield(account{f[0], uid, gid, f[5]}) {
				return
			}
		}
	}
}

func fields(line []byte) []string {
	return strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func parseID(field, s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxID || !digits(s) {
		return 0, errs.New(errs.InvalidArgument, "%s: %q is no id from 0 to %d", field, s, uint32(maxID))
	}
	return uint32(n), nil
}

func checkID(field string, n int64) (uint32, error) {
	if n < 0 || n > maxID {
		return 0, errs.New(errs.InvalidArgument, "%s: %d is no id from 0 to %d", field, n, uint32(maxID))
	}
	return uint32(n), nil
}
