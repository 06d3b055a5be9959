package spec

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// Identity is who a container's processes are.
type Identity struct {
	UID, GID uint32
	// Groups are the supplementary groups, the primary one included, in order.
	Groups []uint32
	// Home is the user's directory of the image's passwd file, "/" if it is not there.
	Home string
	// Username is as asked for or found, "" if unknown.
	Username string
}

// ResolveUser finds a container's identity.
func ResolveUser(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string, passwd, group []byte) (Identity, error) {
	return Identity{}, errs.New(errs.Unimplemented, "resolve user")
}
