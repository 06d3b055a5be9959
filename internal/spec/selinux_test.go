package spec_test

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

func TestSELinuxLabels(t *testing.T) {
	type options = runtimeapi.SELinuxOption
	const level = "s0:c1,c2"
	policy := &spec.SELinux{Process: "system_u:system_r:container_t:s0", File: "system_u:object_r:container_file_t:s0"}
	for _, tt := range []struct {
		name           string
		policy         *spec.SELinux
		pod, container *options
		process, mount string
		kind           errs.Kind // of the refusal, with process ""
		refused        bool
	}{
		{name: "SELinux is off", pod: &options{Type: "t"}},
		{name: "nothing asked", policy: policy, process: "system_u:system_r:container_t:s0:c1,c2", mount: "system_u:object_r:container_file_t:s0:c1,c2"},
		{name: "the pod's level", policy: policy, pod: &options{Level: "s0:c3,c4"},
			process: "system_u:system_r:container_t:s0:c3,c4", mount: "system_u:object_r:container_file_t:s0:c3,c4"},
		{name: "the container's level wins", policy: policy, pod: &options{Level: "s0:c3,c4"}, container: &options{Level: "s0"},
			process: "system_u:system_r:container_t:s0", mount: "system_u:object_r:container_file_t:s0"},
		{name: "a member is the pod's, another the container's", policy: policy, pod: &options{Type: "pod_t"}, container: &options{Role: "ctr_r"},
			process: "system_u:ctr_r:pod_t:s0:c1,c2", mount: "system_u:object_r:container_file_t:s0:c1,c2"},
		{name: "a user owns files too", policy: policy, container: &options{User: "user_u"},
			process: "user_u:system_r:container_t:s0:c1,c2", mount: "user_u:object_r:container_file_t:s0:c1,c2"},
		{name: "a type with a level in it", policy: policy, container: &options{Type: "t:s0"}, refused: true, kind: errs.InvalidArgument},
		{name: "a user with a line break", policy: policy, container: &options{User: "u\n"}, refused: true, kind: errs.InvalidArgument},
		{name: "a policy without labels for containers", policy: &spec.SELinux{}},
		{name: "such a policy, and a change of nothing", policy: &spec.SELinux{}, container: &options{Level: "s0"}, refused: true, kind: errs.FailedPrecondition},
		{name: "such a policy, and all that is needed", policy: &spec.SELinux{}, container: &options{User: "u", Role: "r", Type: "t", Level: "s0"}, process: "u:r:t:s0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := spec.SELinuxLabels(spec.Facts{SELinux: tt.policy}, tt.pod, tt.container, level)
			if tt.refused != (err != nil) || err != nil && !errs.Is(err, tt.kind) {
				t.Fatalf("%+v %v", got, err)
			}
			if err == nil && got != (spec.Labels{Process: tt.process, Mount: tt.mount}) {
				t.Errorf("%+v, want %q, %q", got, tt.process, tt.mount)
			}
		})
	}
}

func TestWhoRunsWithoutSELinuxLabel(t *testing.T) {
	const host = runtimeapi.NamespaceMode_NODE
	for _, tt := range []struct {
		name       string
		privileged bool
		pid, ipc   runtimeapi.NamespaceMode
		options    *runtimeapi.SELinuxOption
		want       bool
	}{
		{name: "the usual container"},
		{name: "a privileged one", privileged: true, want: true},
		{name: "a privileged one that asks", privileged: true, options: &runtimeapi.SELinuxOption{Type: "t"}, want: true},
		{name: "the host's processes", pid: host, want: true},
		{name: "the host's IPC", ipc: host, want: true},
		{name: "the host's processes, and a type asked for", pid: host, options: &runtimeapi.SELinuxOption{Type: "t"}},
	} {
		sandbox := &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			Privileged: true, NamespaceOptions: &runtimeapi.NamespaceOption{Pid: tt.pid, Ipc: tt.ipc},
		}}}
		config := &runtimeapi.ContainerConfig{Command: []string{"a"}, Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			Privileged: tt.privileged, SelinuxOptions: tt.options, NamespaceOptions: &runtimeapi.NamespaceOption{Pid: tt.pid, Ipc: tt.ipc},
		}}}
		in := spec.Input{Sandbox: sandbox, Config: config, SELinux: spec.Labels{Process: "u:r:t:s0", Mount: "u:r:f:s0"}}
		s, err := spec.Container(in)
		if err != nil {
			t.Fatal(err)
		}
		if (s.Process.SelinuxLabel == "") != tt.want || s.Linux.MountLabel != "u:r:f:s0" {
			t.Errorf("%s: process %q, mounts %q", tt.name, s.Process.SelinuxLabel, s.Linux.MountLabel)
		}
	}
}

func TestTheNodesOwnTreesAreNotRelabelled(t *testing.T) {
	for _, tt := range []struct {
		path    string
		relabel bool
		label   string
		ok      bool
	}{
		{"/etc", true, "u:r:f:s0", false}, {"/var/lib/../lib/", true, "u:r:f:s0", false}, {"/", true, "u:r:f:s0", false},
		{"/var/lib/kubelet/pods/1/volumes/x", true, "u:r:f:s0", true}, {"/etc", false, "u:r:f:s0", true}, {"/etc", true, "", true},
	} {
		_, err := spec.Container(spec.Input{
			Sandbox: &runtimeapi.PodSandboxConfig{}, SELinux: spec.Labels{Mount: tt.label},
			Config: &runtimeapi.ContainerConfig{Command: []string{"a"}, Mounts: []*runtimeapi.Mount{{HostPath: tt.path, ContainerPath: "/x", SelinuxRelabel: tt.relabel}}},
		})
		if (err == nil) != tt.ok || err != nil && !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s, relabel %v to %q: %v", tt.path, tt.relabel, tt.label, err)
		}
	}
}
