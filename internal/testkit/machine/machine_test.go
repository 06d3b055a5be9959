package machine_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"

	"fermata/internal/testkit/leak"
	"fermata/internal/testkit/machine"
)

func TestMain(m *testing.M) { leak.Main(m) }

// One of each kind is planted and must be found; a check that cannot fail is none. Then it is taken away and must be found no more.
func TestOneOfEachKindLeftIsFound(t *testing.T) {
	dir := t.TempDir()
	scope := machine.Scope{Dirs: []string{dir}, Cgroups: []string{"/fmleak"}, Links: []string{"fmleak"}, Tables: []string{"fmleak"}, Daemons: []int{os.Getpid()}}
	for _, tt := range []struct {
		name  string
		want  string // in the line that tells of it
		plant func(t *testing.T) (remove func())
	}{
		{"a process that runs in one of the directories", "process: ", func(t *testing.T) func() { return sleeper(t, dir, 0) }},
		{"a network namespace of a process", "namespace: net ", func(t *testing.T) func() { return sleeper(t, dir, syscall.CLONE_NEWNET) }},
		{"a mount namespace of a process", "namespace: mnt ", func(t *testing.T) func() { return sleeper(t, dir, syscall.CLONE_NEWNS) }},
		{"a mount", "mount: tmpfs on " + dir, func(t *testing.T) func() {
			at := mkdir(t, dir, "mount")
			check(t, syscall.Mount("tmpfs", at, "tmpfs", 0, ""))
			return func() { check(t, syscall.Unmount(at, 0)); check(t, os.Remove(at)) }
		}},
		{"a bind of a namespace", "mount: nsfs on " + dir, func(t *testing.T) func() {
			at := filepath.Join(dir, "netns")
			check(t, os.WriteFile(at, nil, 0o600))
			check(t, syscall.Mount("/proc/self/ns/net", at, "", syscall.MS_BIND, ""))
			return func() { check(t, syscall.Unmount(at, 0)); check(t, os.Remove(at)) }
		}},
		{"a link", "link: fmleak0", func(t *testing.T) func() { return command(t, "ip link add fmleak0 type bridge", "ip link del fmleak0") }},
		{"a link enslaved to a bridge", "link: fmxleak1 (enslaved to fmleak0)", func(t *testing.T) func() {
			return command(t, "ip link add fmleak0 type bridge && ip link add fmxleak1 type veth peer name fmyleak1 && ip link set fmxleak1 master fmleak0",
				"ip link del fmxleak1; ip link del fmleak0")
		}},
		{"a table", "nft table: fmleak", table(func(*testing.T, *nftables.Conn, *nftables.Table) {})},
		{"an element", "nft element: fmleak ports 1f90", table(func(t *testing.T, c *nftables.Conn, table *nftables.Table) {
			set := &nftables.Set{Table: table, Name: "ports", KeyType: nftables.TypeInetService}
			check(t, c.AddSet(set, []nftables.SetElement{{Key: []byte{0x1f, 0x90}}}))
		})},
		{"a directory", "directory: " + dir + "/pods/x", func(t *testing.T) func() {
			mkdir(t, dir, "pods/x")
			return func() { check(t, os.RemoveAll(dir+"/pods")) }
		}},
		{"a lease", "file: " + dir + "/10.0.0.2", func(t *testing.T) func() {
			check(t, os.WriteFile(dir+"/10.0.0.2", nil, 0o600))
			return func() { check(t, os.Remove(dir+"/10.0.0.2")) }
		}},
		{"a FIFO", "FIFO: " + dir + "/x.stdout", func(t *testing.T) func() {
			check(t, syscall.Mkfifo(dir+"/x.stdout", 0o600))
			return func() { check(t, os.Remove(dir+"/x.stdout")) }
		}},
		{"a socket", "socket: " + dir + "/x.sock", func(t *testing.T) func() {
			l, err := net.Listen("unix", dir+"/x.sock")
			check(t, err)
			return func() { check(t, l.Close()) }
		}},
		{"a daemon's descriptor", "descriptors: process ", func(t *testing.T) func() {
			f, err := os.Open(dir)
			check(t, err)
			return func() { check(t, f.Close()) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { findPlanted(t, scope, tt.want, tt.plant) })
	}
}

func findPlanted(t *testing.T, scope machine.Scope, want string, plant func(*testing.T) func()) {
	before, err := machine.Take(scope)
	check(t, err)
	remove := plant(t)
	check(t, before.Note())
	now, err := machine.Take(scope)
	check(t, err)
	if left := strings.Join(before.Diff(now), "\n"); !strings.Contains(left, want) {
		t.Errorf("not found: %q in:\n%s", want, left)
	}
	remove()
	left, err := before.Left(t.Context())
	check(t, err)
	if len(left) != 0 {
		t.Errorf("taken away, but still found:\n%s", strings.Join(left, "\n"))
	}
}

// Every hierarchy is looked at: on a v1 or hybrid machine a controller's own may keep what the others let go.
func TestACgroupLeftInAnyHierarchyIsFound(t *testing.T) {
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	check(t, err)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		hierarchies = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	scope := machine.Scope{Cgroups: []string{"/fmleak"}}
	for _, h := range hierarchies {
		at := filepath.Join(filepath.Dir(h), "fmleak")
		findPlanted(t, scope, "cgroup: "+at, func(t *testing.T) func() {
			check(t, os.Mkdir(at, 0o755))
			return func() { check(t, os.Remove(at)) }
		})
	}
}

// A namespace kept by an open descriptor only, by a process that is not the test's, was seen while the test's process was in it.
func TestANamespaceKeptByAStrangersDescriptorIsFound(t *testing.T) {
	dir := t.TempDir()
	scope := machine.Scope{Dirs: []string{dir}}
	before, err := machine.Take(scope)
	check(t, err)
	cmd := start(t, dir, syscall.CLONE_NEWNET)
	check(t, before.Note())
	ns, err := os.Open("/proc/" + pid(cmd) + "/ns/net")
	check(t, err)
	holder := exec.Command("sleep", "1000")
	holder.Dir, holder.ExtraFiles = "/", []*os.File{ns}
	check(t, holder.Start())
	check(t, ns.Close())
	end(cmd)
	now, err := machine.Take(scope)
	check(t, err)
	left := strings.Join(before.Diff(now), "\n")
	if want := "open in process " + pid(holder); !strings.Contains(left, want) {
		t.Errorf("not found: %q in:\n%s", want, left)
	}
	end(holder)
}

func TestTheWholeMachineIsAScopeToo(t *testing.T) {
	before, err := machine.Take(machine.Scope{All: true})
	check(t, err)
	cmd := start(t, "/", syscall.CLONE_NEWIPC)
	now, err := machine.Take(machine.Scope{All: true})
	check(t, err)
	left := strings.Join(before.Diff(now), "\n")
	for _, want := range []string{"process: " + pid(cmd) + " (sleep)", "namespace: ipc "} {
		if !strings.Contains(left, want) {
			t.Errorf("not found: %q in:\n%s", want, left)
		}
	}
	end(cmd)
}

// A daemon that was started again is no leak, but what it holds of others is.
func TestAnAcceptedProcessIsNoLeakButWhatItHoldsOfOthersIs(t *testing.T) {
	dir := t.TempDir()
	before, err := machine.Take(machine.Scope{Dirs: []string{dir}})
	check(t, err)
	pod := start(t, dir, syscall.CLONE_NEWNET)
	ns, err := os.Open("/proc/" + pid(pod) + "/ns/net")
	check(t, err)
	daemon := exec.Command("sleep", "1000")
	daemon.Dir, daemon.ExtraFiles = dir, []*os.File{ns}
	check(t, daemon.Start())
	check(t, ns.Close())
	check(t, before.Accept(daemon.Process.Pid))
	check(t, before.Note())
	end(pod)
	now, err := machine.Take(machine.Scope{Dirs: []string{dir}})
	check(t, err)
	left := strings.Join(before.Diff(now), "\n")
	if strings.Contains(left, "process: ") || !strings.Contains(left, "open in process "+pid(daemon)) {
		t.Errorf("want the namespace alone, got:\n%s", left)
	}
	end(daemon)
}

func sleeper(t *testing.T, dir string, flags uintptr) func() {
	cmd := start(t, dir, flags)
	return func() { end(cmd) }
}

func start(t *testing.T, dir string, flags uintptr) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Cloneflags: flags}
	check(t, cmd.Start())
	t.Cleanup(func() { end(cmd) })
	return cmd
}

func end(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func pid(cmd *exec.Cmd) string { return strconv.Itoa(cmd.Process.Pid) }

func table(fill func(*testing.T, *nftables.Conn, *nftables.Table)) func(*testing.T) func() {
	return func(t *testing.T) func() {
		c, err := nftables.New()
		check(t, err)
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fmleak"})
		fill(t, c, table)
		check(t, c.Flush())
		return func() {
			c.DelTable(table)
			check(t, c.Flush())
		}
	}
}

func command(t *testing.T, do, undo string) func() {
	t.Helper()
	sh := func(line string) {
		out, err := exec.Command("sh", "-c", line).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v %s", line, err, out)
		}
	}
	t.Cleanup(func() { exec.Command("sh", "-c", undo).Run() }) // also after a failure
	sh(do)
	return func() { sh(undo) }
}

func mkdir(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	check(t, os.MkdirAll(path, 0o755))
	return path
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
