package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What Status and RuntimeConfig say that the runtime can, it does (STA-4, STA-5, RCF-1). User namespaces, also with the host's network, are in
// TestAPodWithAUserNamespace…: whoever reports them not is asked why there.
func TestReportedFeaturesAreThere(t *testing.T) {
	n := start(t)
	st, err := n.CRI.Status(t.Context(), &runtimeapi.StatusRequest{})
	check(t, err)
	names := map[string]bool{}
	for _, h := range st.GetRuntimeHandlers() {
		if names[h.GetName()] {
			t.Errorf("handler %q is there twice", h.GetName())
		}
		names[h.GetName()] = true
		if !h.GetFeatures().GetRecursiveReadOnlyMounts() {
			t.Errorf("handler %q cannot make mounts read-only recursively", h.GetName())
		}
	}
	if !names[""] || !st.GetFeatures().GetSupplementalGroupsPolicy() {
		t.Errorf("handlers %v, features %v", st.GetRuntimeHandlers(), st.GetFeatures())
	}
	if n.Kind == "fermata" && !st.GetFeatures().GetMountOptions() {
		t.Error("mount_options is not reported")
	}
	volume := filepath.Join(n.Dir, "volume")
	check(t, os.MkdirAll(filepath.Join(volume, "below"), 0o777))
	run(t, "mount", "-t", "tmpfs", "none", filepath.Join(volume, "below"))
	t.Cleanup(func() { run(t, "umount", filepath.Join(volume, "below")) })
	check(t, os.WriteFile(filepath.Join(volume, "tool"), []byte("#!/bin/sh\necho ran\n"), 0o755))
	const grouped = "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest" // its user 1000 is in group 50000
	_, err = n.CRI.Pull(t.Context(), grouped)
	check(t, err)
	inGroup := func(c *runtimeapi.ContainerConfig) { c.Image.Image = grouped }
	p, _ := pod(t, n, "features")
	for name, tt := range map[string]struct {
		change       func(*runtimeapi.ContainerConfig)
		script, want string
	}{
		"read-only is the mount alone": {
			func(c *runtimeapi.ContainerConfig) { c.Mounts[0].Readonly = true },
			"touch /v/x 2>/dev/null || echo not above; touch /v/below/x && echo below", "not above below",
		},
		"recursively read-only are those below too": {
			func(c *runtimeapi.ContainerConfig) {
				c.Mounts[0].Readonly, c.Mounts[0].RecursiveReadOnly = true, true
			},
			"touch /v/x 2>/dev/null || echo not above; touch /v/below/x 2>/dev/null || echo nor below", "not above nor below",
		},
		"without options a volume's programs run": {func(*runtimeapi.ContainerConfig) {}, "/v/tool", "ran"},
		"with noexec they do not": {
			func(c *runtimeapi.ContainerConfig) { c.Mounts[0].MountOptions = []string{"noexec"} },
			"/v/tool 2>&1 | grep -o 'Permission denied'", "Permission denied",
		},
		"groups of the image are merged": {inGroup, "id -G | tr ' ' '\\n' | sort -n", "1000 5000 50000"},
		"or strictly left out": {
			func(c *runtimeapi.ContainerConfig) {
				inGroup(c)
				c.Linux.SecurityContext.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
			},
			"id -G", "1000 5000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := strings.ReplaceAll(name, " ", "-")
			ctr := shell(file, tt.script+"; echo end; exec sleep 1000")
			ctr.Mounts = []*runtimeapi.Mount{{HostPath: volume, ContainerPath: "/v"}}
			ctr.Linux.SecurityContext.SupplementalGroups = []int64{5000}
			tt.change(ctr)
			if ctr.Mounts[0].MountOptions != nil && !st.GetFeatures().GetMountOptions() {
				return // not reported, not asked for
			}
			p.run(t, ctr)
			eventually(t, "the container's own word", func() (bool, string) {
				got := strings.ReplaceAll(strings.Join(p.lines(t, file), " "), "stdout ", "")
				return got == tt.want+" end", got
			})
		})
	}
	config, err := n.CRI.RuntimeConfig(t.Context(), &runtimeapi.RuntimeConfigRequest{})
	check(t, err)
	id := p.run(t, shell("grouped", "exec sleep 1000"))
	out, err := n.CRI.Exec(t.Context(), id, "cat", "/proc/1/cgroup")
	check(t, err)
	if n.Kind == "fermata" && (config.GetLinux().GetCgroupDriver() != runtimeapi.CgroupDriver_CGROUPFS || strings.Contains(out, ".scope")) {
		t.Errorf("the driver is said to be %v, the container is in\n%s", config.GetLinux().GetCgroupDriver(), out)
	}
}
