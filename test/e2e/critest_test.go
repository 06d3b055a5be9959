package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"fermata/internal/apparmor"
	"fermata/internal/selinux"
)

// critest skips its specs of a security module where the kernel has it not: this runs them where it is, in the machines of `make
// kernels`, which bring the suite along. All others run by `make critest`.
func TestCritestsSpecsOfTheSecurityModulePass(t *testing.T) {
	program := os.Getenv("FERMATA_TEST_CRITEST")
	if program == "" {
		t.Skip("FERMATA_TEST_CRITEST does not say where the suite is")
	}
	focus, specs := "AppArmor", "9"
	switch {
	case selinux.Enabled():
		focus, specs = "SELinux", "17"
	case !apparmor.Enabled():
		t.Skip("neither AppArmor nor SELinux is on in this kernel")
	}
	if focus == "AppArmor" {
		needAppArmor(t)
	}
	n := start(t)
	cmd := exec.CommandContext(t.Context(), program, "--runtime-endpoint", n.Endpoint, "--config", filepath.Join(n.Dir, "no-crictl.yaml"),
		"--ginkgo.no-color", "--ginkgo.focus", focus, "--ginkgo.fail-on-empty")
	cmd.Dir = n.Dir
	out, err := cmd.CombinedOutput()
	ran := regexp.MustCompile(`Ran (\d+) of `).FindSubmatch(out)
	if err != nil || ran == nil || string(ran[1]) != specs {
		t.Errorf("critest %s: %v, ran %q specs, want %s\n%.8000s", focus, err, ran, specs, out)
	}
}
