package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// numbers reads the kernel's system call numbers of an architecture as golang.org/x/sys has them.
func numbers(t *testing.T, a Arch) map[string]string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+a.String()+".go"))
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s+SYS_(\w+)\s+= (\d+)`).FindAllStringSubmatch(string(src), -1) {
		list[strings.ToLower(m[1])] = m[2]
	}
	return list
}

func TestCallsHaveTheKernelsNumbers(t *testing.T) {
	for a := range arches {
		kernel := numbers(t, a)
		for c := none + 1; c < calls; c++ {
			info := callTable[c]
			if got, want := fmt.Sprint(info.number[a]), kernel[info.name]; got != want {
				t.Errorf("%s on %s has number %s, want %q", c, a, got, want)
			}
			if len(info.args) > 6 {
				t.Errorf("%s has %d arguments", c, len(info.args))
			}
			for _, letter := range info.args {
				_, symbolic := symbolic(byte(letter), 0, a)
				if !symbolic && !strings.ContainsRune("dxofpve", letter) {
					t.Errorf("%s: nobody knows how to print a %q", c, letter)
				}
			}
		}
	}
}

func TestNamesOfCallsAndArchitectures(t *testing.T) {
	for got, want := range map[string]string{
		PivotRoot.String(): "pivot_root", calls.String(): fmt.Sprintf("call %d", calls), AMD64.String(): "amd64", ARM64.String(): "arm64", arches.String(): "arch 2",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
