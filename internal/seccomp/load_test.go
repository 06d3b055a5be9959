package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/linux"
)

const childEnv = "FERMATA_SECCOMP_CHILD"

// child is this binary run again: it loads the default profile and tries calls.
func child() {
	runtime.LockOSThread()
	f, err := compiled()
	if err == nil {
		err = linux.NoNewPrivs()
	}
	if err == nil {
		err = linux.SeccompFilter(f.Bytes(), f.Flags())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if os.Getenv(childEnv) == "status" {
		status, _ := os.ReadFile("/proc/thread-self/status")
		fmt.Print(string(status))
		return
	}
	for _, c := range tried {
		_, _, e := syscall.RawSyscall(c.nr, c.args[0], c.args[1], c.args[2])
		fmt.Printf("%s: %v\n", c.name, e)
	}
}

func compiled() (*Filter, error) {
	p, err := Default(capabilitySets["of an ordinary container"])
	if err != nil {
		return nil, err
	}
	return Compile(p)
}

// tried are calls made under the default profile, with what the kernel must answer. Those refused would succeed, or fail otherwise, without it.
var tried = []struct {
	name string
	nr   uintptr
	args [3]uintptr
	want error
}{
	{"getpid, allowed", syscall.SYS_GETPID, [3]uintptr{}, nil},
	{"unshare(0), refused", syscall.SYS_UNSHARE, [3]uintptr{}, syscall.EPERM},
	{"a call that does not exist yet", 511, [3]uintptr{}, syscall.ENOSYS},
	{"socket(AF_UNIX), allowed by its argument", syscall.SYS_SOCKET, [3]uintptr{syscall.AF_UNIX, syscall.SOCK_STREAM}, nil},
	{"socket(AF_VSOCK), refused by its argument", syscall.SYS_SOCKET, [3]uintptr{40, syscall.SOCK_STREAM}, syscall.EPERM},
	{"personality(query), allowed by its argument", syscall.SYS_PERSONALITY, [3]uintptr{0xffffffff}, nil},
	{"personality(ADDR_NO_RANDOMIZE), refused by its argument", syscall.SYS_PERSONALITY, [3]uintptr{0x40000}, syscall.EPERM},
}

func TestTheKernelDoesWhatTheDefaultProfileSays(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childEnv + "=try"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(tried) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(tried), out)
	}
	for i, c := range tried {
		want := c.want
		if want == nil {
			want = syscall.Errno(0)
		}
		if lines[i] != c.name+": "+want.Error() {
			t.Errorf("%s, want %v", lines[i], want)
		}
	}
}

func TestTheFilterIsInForce(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childEnv + "=status"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

func TestAProgramTheKernelRefuses(t *testing.T) {
	for name, program := range map[string][]byte{
		"nothing":                    nil,
		"half an instruction":        make([]byte, 4),
		"an end without a return":    {opLoad, 0, 0, 0, 4, 0, 0, 0},
		"more than the kernel takes": make([]byte, 8*(maxInstructions+1)),
	} {
		if err := linux.SeccompFilter(program, 0); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
