package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
)

// How a container is asked to end, what becomes of its children, and what there is to stop (STP-1, STP-2, STP-3, STP-6).
func TestStoppingAContainer(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "stopping")
	for name, tt := range map[string]struct {
		pid    runtimeapi.NamespaceMode
		signal runtimeapi.Signal
		grace  int64
		code   int32
	}{
		"SIGTERM unless something else is asked":                    {runtimeapi.NamespaceMode_CONTAINER, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, 30, 15},
		"the signal that is asked":                                  {runtimeapi.NamespaceMode_CONTAINER, runtimeapi.Signal_SIGNAL_SIGUSR1, 30, 10},
		"none when there is no grace":                               {runtimeapi.NamespaceMode_CONTAINER, runtimeapi.Signal_SIGNAL_SIGUSR1, 0, 137},
		"a signal that is ignored is followed by SIGKILL":           {runtimeapi.NamespaceMode_CONTAINER, runtimeapi.Signal_SIGNAL_SIGWINCH, 1, 137},
		"children go with it in the pod's PID namespace":            {runtimeapi.NamespaceMode_POD, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, 30, 15},
		"in the host's too":                                         {runtimeapi.NamespaceMode_NODE, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, 30, 15},
		"and when the container is killed in the host's namespaces": {runtimeapi.NamespaceMode_NODE, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, 0, 137},
	} {
		t.Run(name, func(t *testing.T) {
			file := strings.ReplaceAll(name, " ", "-")
			mark := fmt.Sprintf("4713%d", os.Getpid())
			ctr := shell(file, "trap 'exit 15' TERM; trap 'exit 10' USR1; (trap '' TERM; sleep "+mark+") & echo there; while :; do wait; done")
			ctr.Linux.SecurityContext.NamespaceOptions.Pid = tt.pid
			ctr.StopSignal = tt.signal
			id := p.run(t, ctr)
			eventually(t, "the traps are set and the child is there", func() (bool, string) {
				l, children := p.lines(t, file), commands(t, "sleep\x00"+mark)
				return len(l) == 1 && len(children) == 1, fmt.Sprint(l, children)
			})
			for range 2 { // a second time there is nothing to do
				_, err := n.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: tt.grace})
				check(t, err)
			}
			st, err := n.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
			check(t, err)
			if got := st.GetStatus(); got.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || got.GetExitCode() != tt.code {
				t.Errorf("%v with code %d, want %d", got.GetState(), got.GetExitCode(), tt.code)
			}
			eventually(t, "its children are gone", func() (bool, string) { left := commands(t, "sleep\x00"+mark); return len(left) == 0, fmt.Sprint(left) })
		})
	}
	made, err := n.CRI.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: shell("made", "true"), SandboxConfig: p.config})
	check(t, err)
	for _, id := range []string{made.GetContainerId(), strings.Repeat("0", 64)} {
		_, err := n.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
		check(t, err)
	}
	st, err := n.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: made.GetContainerId()})
	check(t, err)
	if st.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("a container that was only made is %v after a stop", st.GetStatus().GetState())
	}
}

// commands are the processes of the machine whose command line begins so.
func commands(t *testing.T, line string) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	for _, file := range all {
		if b, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(b), line) { // an error: it has ended
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

// What is on the host's side of a volume outlives the container, whatever is mounted there and however it goes (MNT-3, MNT-13, MNT-14).
func TestAVolumesFilesOutliveTheContainer(t *testing.T) {
	n := start(t)
	host := filepath.Join(n.Dir, "host")
	check(t, os.MkdirAll(filepath.Join(host, "shared"), 0o755))
	run(t, "mount", "-t", "tmpfs", "none", filepath.Join(host, "shared"))
	t.Cleanup(func() { run(t, "umount", "-l", filepath.Join(host, "shared")) })
	run(t, "mount", "--make-shared", filepath.Join(host, "shared"))
	check(t, os.Symlink("shared", filepath.Join(host, "link")))
	for _, file := range []string{"keep", "shared/keep"} {
		check(t, os.WriteFile(filepath.Join(host, file), []byte("x"), 0o644))
	}
	p := &podOf{n: n, logs: filepath.Join(n.Dir, "logs")}
	p.config = cri.PodConfig("volumes", p.logs)
	p.config.Linux.SecurityContext.Privileged = true
	id, err := n.CRI.RunPod(t.Context(), p.config)
	check(t, err)
	p.id = id
	ctr := shell("mounting", "mkdir /link/in && mount --bind /host /link/in && echo mounted; exec sleep 1000")
	ctr.Linux.SecurityContext.Privileged = true
	ctr.Mounts = []*runtimeapi.Mount{
		{HostPath: host, ContainerPath: "/host"},
		{HostPath: filepath.Join(host, "link"), ContainerPath: "/link", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
	}
	container := p.run(t, ctr)
	eventually(t, "the container mounts", func() (bool, string) {
		l := p.lines(t, "mounting")
		return len(l) == 1 && l[0] == "stdout mounted", fmt.Sprint(l)
	})
	st, err := n.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: container})
	check(t, err)
	if m := st.GetStatus().GetMounts(); len(m) != 2 || m[1].GetHostPath() != ctr.Mounts[1].HostPath {
		t.Errorf("mounts in the status: %v", m)
	}
	if _, err := os.Stat(filepath.Join(host, "shared/in/keep")); err != nil {
		t.Errorf("what the container mounts does not reach the host: %v", err)
	}
	check(t, n.CRI.RemovePod(t.Context(), id))
	for _, file := range []string{"keep", "shared/keep", "shared/in/keep"} {
		if _, err := os.Stat(filepath.Join(host, file)); err != nil {
			t.Errorf("after the pod: %v", err)
		}
	}
	run(t, "umount", filepath.Join(host, "shared/in"))
}
