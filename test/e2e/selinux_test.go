package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/selinux"
	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// needSELinux skips where SELinux is off: `make kernels` runs these tests where it is on, under test/kernels/policy.cil.
func needSELinux(t *testing.T) {
	t.Helper()
	if !selinux.Enabled() {
		t.Skip("SELinux is not on in this kernel")
	}
}

// labelOf is what a process of a container runs as.
func (p *podOf) labelOf(t *testing.T, id string) string {
	t.Helper()
	out, err := p.n.CRI.Exec(t.Context(), id, "cat", "/proc/self/attr/current")
	check(t, err)
	return strings.TrimRight(out, "\x00\n")
}

func TestSELinuxKeepsPodsApart(t *testing.T) {
	needSELinux(t)
	n := start(t)
	own := regexp.MustCompile(`^system_u:system_r:container_t:s0:c\d+,c\d+$`)
	labels := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		p, _ := pod(t, n, name)
		id := p.run(t, shell("first", "cat /proc/self/attr/current; echo; exec sleep 1000"))
		label := p.labelOf(t, id)
		if !own.MatchString(label) || labels[label] {
			t.Errorf("label %q: want container_t with categories of the pod's own", label)
		}
		labels[label] = true
		eventually(t, "the label of the first process", func() (bool, string) {
			lines := p.lines(t, "first")
			return len(lines) > 0 && strings.TrimRight(lines[0], "\x00") == "stdout "+label, strings.Join(lines, "; ")
		})
		if second := p.labelOf(t, p.run(t, shell("second", "exec sleep 1000"))); second != label {
			t.Errorf("labels of one pod: %q, %q", label, second)
		}
		level := label[strings.Index(label, ":s0:")+1:]
		mounts, err := n.CRI.Exec(t.Context(), id, "cat", "/proc/self/mountinfo")
		check(t, err)
		for _, at := range []string{"/", "/dev", "/dev/pts", "/dev/shm"} {
			if !regexp.MustCompile(` ` + at + ` .*context="?system_u:object_r:container_file_t:` + level).MatchString(mounts) {
				t.Errorf("%s has not the pod's label:\n%s", at, mounts)
			}
		}
		const use = "cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null && ls /dev/mqueue && echo x > /dev/shm/f && echo x > /f && cat /f && tty"
		if out, err := n.CRI.Exec(t.Context(), id, "sh", "-c", use); !strings.HasPrefix(out, "x\n") {
			t.Errorf("use what is a container's own: %q %v", out, err)
		}
	}
}

func TestSELinuxLabelsVolumesThatAskForIt(t *testing.T) {
	needSELinux(t)
	n := start(t)
	p, _ := pod(t, n, "volumes")
	other, _ := pod(t, n, "other")
	volume := func(name string) string {
		dir := filepath.Join(n.Dir, name)
		check(t, os.MkdirAll(dir+"/below", 0o755))
		check(t, os.WriteFile(dir+"/below/file", []byte("text"), 0o644))
		check(t, os.Symlink("/etc/passwd", dir+"/link"))
		return dir
	}
	plain, labelled := volume("plain"), volume("labelled")
	ctr := shell("main", "exec sleep 1000")
	ctr.Mounts = []*runtimeapi.Mount{
		{HostPath: plain, ContainerPath: "/plain"}, {HostPath: labelled, ContainerPath: "/labelled", SelinuxRelabel: true, Readonly: true},
	}
	id := p.run(t, ctr)
	if out, err := n.CRI.Exec(t.Context(), id, "cat", "/plain/below/file"); err == nil {
		t.Errorf("a volume of the host's label was read: %q", out)
	}
	if out, err := n.CRI.Exec(t.Context(), id, "cat", "/labelled/below/file"); err != nil || out != "text" {
		t.Errorf("a labelled volume: %q %v", out, err)
	}
	want := strings.Replace(p.labelOf(t, id), "system_r:container_t", "object_r:container_file_t", 1)
	for _, path := range []string{labelled, labelled + "/below", labelled + "/below/file"} {
		var buf [256]byte
		size, err := syscall.Getxattr(path, "security.selinux", buf[:])
		check(t, err)
		if got := strings.TrimRight(string(buf[:size]), "\x00"); got != want {
			t.Errorf("label of %s: %q, want %q", path, got, want)
		}
	}
	ctr = shell("other", "exec sleep 1000")
	ctr.Mounts = []*runtimeapi.Mount{{HostPath: labelled, ContainerPath: "/labelled"}}
	if out, err := n.CRI.Exec(t.Context(), other.run(t, ctr), "cat", "/labelled/below/file"); err == nil {
		t.Errorf("another pod's volume was read: %q", out)
	}
	anonymous := cri.ContainerConfig("anonymous", images.Volumes, "sh", "-c", "exec sleep 1000")
	anonymous.Linux = shell("", "").Linux
	_, err := n.CRI.Pull(t.Context(), images.Volumes)
	check(t, err)
	if out, err := n.CRI.Exec(t.Context(), p.run(t, anonymous), "sh", "-c", "echo x > /data/new && cat /data/new"); err != nil || out != "x\n" {
		t.Errorf("an image's volume: %q %v", out, err)
	}
	ctr = shell("system", "true")
	ctr.Mounts = []*runtimeapi.Mount{{HostPath: "/etc", ContainerPath: "/host", SelinuxRelabel: true}}
	if _, err := n.CRI.Create(t.Context(), p.id, p.config, ctr); err == nil {
		t.Error("the node's /etc was to be labelled for a container")
	}
}

func TestSELinuxOptions(t *testing.T) {
	needSELinux(t)
	n := start(t)
	logs := filepath.Join(n.Dir, "logs")
	config := cri.PodConfig("options", logs)
	config.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c7,c8"}
	config.Linux.SecurityContext.Privileged = true
	id, err := n.CRI.RunPod(t.Context(), config)
	check(t, err)
	p := &podOf{n: n, id: id, config: config, logs: logs}
	for _, tt := range []struct {
		name    string
		options *runtimeapi.SELinuxOption
		change  func(*runtimeapi.LinuxContainerSecurityContext)
		want    string // "" refused
	}{
		{name: "the pod's level", want: "system_u:system_r:container_t:s0:c7,c8"},
		{name: "a level", options: &runtimeapi.SELinuxOption{Level: "s0:c1"}, want: "system_u:system_r:container_t:s0:c1"},
		{name: "a type", options: &runtimeapi.SELinuxOption{Type: "spc_t"}, want: "system_u:system_r:spc_t:s0:c7,c8"},
		{name: "privileged", change: func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.Privileged = true }, want: "system_u:system_r:spc_t:s0"},
		{name: "a type nobody knows", options: &runtimeapi.SELinuxOption{Type: "nobodys_t"}},
		{name: "two parts in one", options: &runtimeapi.SELinuxOption{Type: "spc_t:s0"}},
		{name: "a level that is none", options: &runtimeapi.SELinuxOption{Level: "s0,c1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctr := shell(strings.ReplaceAll(tt.name, " ", "-"), "exec sleep 1000")
			ctr.Linux.SecurityContext.SelinuxOptions = tt.options
			if tt.change != nil {
				tt.change(ctr.Linux.SecurityContext)
			}
			if tt.want == "" {
				if _, err := n.CRI.Create(t.Context(), p.id, config, ctr); err == nil {
					t.Error("it was created")
				}
				return
			}
			if got := p.labelOf(t, p.run(t, ctr)); got != tt.want {
				t.Errorf("label %q, want %q", got, tt.want)
			}
		})
	}
}
