package spec

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// devices are the nodes a container gets besides the OCI's default ones (which every handler makes by itself); the device rules of its
// cgroup go into r.
func devices(in Input, sc *runtimeapi.LinuxContainerSecurityContext, r *specs.LinuxResources) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	add := func(d specs.LinuxDevice) {
		same := func(o specs.LinuxDevice) bool { return o.Path == d.Path }
		if i := slices.IndexFunc(out, same); i >= 0 { // a host device asked for again
			out[i] = d
			return
		}
		out = append(out, d)
	}
	if sc.Privileged {
		for _, d := range in.Facts.Devices {
			add(d)
		}
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	} else {
		r.Devices = defaultDeviceRules()
	}
	for _, d := range in.Devices {
		access, err := permissions(d.Permissions)
		if err != nil {
			return nil, err
		}
		if err := checkPath("devices.container_path", d.Path); err != nil {
			return nil, err
		}
		add(d.LinuxDevice)
		if !sc.Privileged {
			r.Devices = append(r.Devices, rule(d.Type, d.Major, d.Minor, access))
		}
	}
	return out, nil
}

func permissions(p string) (string, error) {
	if p == "" {
		return "rwm", nil
	}
	if strings.Trim(p, "rwm") != "" {
		return "", errs.New(errs.InvalidArgument, "devices.permissions: %q is not of \"rwm\"", p)
	}
	return p, nil
}

// defaultDeviceRules deny everything, then allow making nodes (which gives no access) and the OCI's default devices and terminals.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	const any = -1
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		rule("c", any, any, "m"), rule("b", any, any, "m"),
		rule("c", 1, 3, "rwm"), rule("c", 1, 5, "rwm"), rule("c", 1, 7, "rwm"), // null, zero, full
		rule("c", 1, 8, "rwm"), rule("c", 1, 9, "rwm"), // random, urandom
		rule("c", 5, 0, "rwm"), rule("c", 5, 1, "rwm"), rule("c", 5, 2, "rwm"), rule("c", 136, any, "rwm"), // tty, console, ptmx, pts
	}
}

// rule allows access; a negative number is any.
func rule(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	d := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
	if major >= 0 {
		d.Major = &major
	}
	if minor >= 0 {
		d.Minor = &minor
	}
	return d
}
