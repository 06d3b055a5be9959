package native_test

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/engine"
	"fermata/internal/spec"
)

// mapped is a numbering whose users and groups cannot be taken for each other.
var mapped = &spec.Users{UIDs: specs.LinuxIDMapping{HostID: 300000, Size: 65536}, GIDs: specs.LinuxIDMapping{HostID: 500000, Size: 65536}}

func withUsers(s *engine.Sandbox) { s.Users = mapped }

func TestAContainerInAUserNamespace(t *testing.T) {
	n := newNode(t)
	p := n.pod(withUsers)
	out := p.run("cat=/proc/self/uid_map", "cat=/proc/self/gid_map", "stat=/", "stat=/bin/app", "write=/new,x", "stat=/new", "stat=/proc", "stat=/proc/self", "stat=/sys",
		"stat=/dev", "stat=/dev/null", "stat=/dev/pts", "stat=/dev/pts/ptmx", "stat=/dev/shm", "stat=/dev/mqueue", "stat=/etc/hosts", "cat=/proc/self/mountinfo", "ls=/sys/class/net", "pid", "ns")
	t.Log(out)
}
