package launch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"fermata/internal/linux"
)

// sandboxProgram is a pod's beginning as package engine/native writes it, in short. Descriptor 5 is pause.
func sandboxProgram(b *Builder) {
	b.Do("leave the mounts", Unshare, unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	b.Do("name the host", Sethostname, "pod-1", 5)
	b.Do("reap by ignoring", RtSigaction, int(unix.SIGCHLD), b.SigAction(SigIgnore), nil, SigsetSize)
	dropPrivileges(b, 0)
	b.Do("become pause", Execveat, FirstFD, "", []string{"/pause"}, []string{}, unix.AT_EMPTY_PATH)
}

// dropPrivileges keeps a mask of capabilities and becomes nobody.
func dropPrivileges(b *Builder, keep uint64) {
	for c := range 64 {
		if keep>>c&1 == 0 {
			b.Do(fmt.Sprintf("drop capability %d", c), Prctl, unix.PR_CAPBSET_DROP, c).Ignore(syscall.EINVAL)
		}
	}
	b.Do("keep capabilities over setresuid", Prctl, unix.PR_SET_KEEPCAPS, 1)
	b.Do("set groups", Setgroups, 2, b.Groups([]uint32{65534, 1000}))
	b.Do("set gid", Setresgid, 65534, 65534, 65534)
	b.Do("set uid", Setresuid, 65534, 65534, 65534)
	b.Do("set capabilities", Capset, b.CapHeader(), b.CapData(keep, keep, 0))
	b.Do("no new privileges", Prctl, unix.PR_SET_NO_NEW_PRIVS, 1)
}

// openDirectory and its kin are the flags of an architecture, for listings of both.
func openDirectory(a Arch) int { return map[Arch]int{AMD64: 0o200000, ARM64: 0o40000}[a] }

// containerProgram is a container's beginning with one op of each kind that real ones have. Descriptors: 5 the sandbox, 6 the root, 7 pause.
func containerProgram(b *Builder) {
	fs, mount, at, root := b.NewSlot(), b.NewSlot(), b.NewSlot(), b.NewSlot()
	how := b.OpenHow(unix.O_PATH, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	b.Do("join the sandbox", Setns, FirstFD, unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	b.Do("leave the mounts", Unshare, unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP)
	b.Do("keep mounts to itself", Mount, nil, "/", nil, unix.MS_REC|unix.MS_PRIVATE, nil)
	b.Do("attach root", MoveMount, FirstFD+1, "", unix.AT_FDCWD, "/mnt", unix.MOVE_MOUNT_F_EMPTY_PATH)
	b.Do("enter root", Chdir, "/mnt")
	b.Do("pivot_root", PivotRoot, ".", ".")
	b.Do("leave the host", Umount2, ".", unix.MNT_DETACH)
	b.Do("open root", Openat, unix.AT_FDCWD, "/", unix.O_PATH|openDirectory(b.arch)|closeOnExec).Save(root)
	for _, d := range []string{"proc", "dev", "sys"} {
		b.Do("make "+d, Mkdirat, root, d, 0o755).Ignore(syscall.EEXIST)
	}
	for _, f := range []struct{ kind, at, key, value string }{{"proc", "proc", "hidepid", "0"}, {"tmpfs", "dev", "size", "64k"}} {
		b.Do("open filesystem "+f.kind, Fsopen, f.kind, unix.FSOPEN_CLOEXEC).Save(fs)
		b.Do("configure "+f.kind, Fsconfig, fs, unix.FSCONFIG_SET_STRING, f.key, f.value, 0)
		b.Do("create "+f.kind, Fsconfig, fs, unix.FSCONFIG_CMD_CREATE, nil, nil, 0)
		b.Do("mount "+f.kind, Fsmount, fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC).Save(mount)
		b.Do("find target "+f.at, Openat2, root, f.at, how, OpenHowSize).Save(at).Retry(128, syscall.EAGAIN)
		b.Do("attach "+f.kind, MoveMount, mount, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		b.Do("close target", Close, at)
		b.Do("close mount", Close, mount)
		b.Do("close filesystem", Close, fs)
	}
	b.Do("make /dev/null", Mknodat, root, "dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	b.Do("open to all /dev/null", Fchmodat, root, "dev/null", 0o666)
	b.Do("link /dev/fd", Symlinkat, "/proc/self/fd", root, "dev/fd")
	for _, path := range []string{"proc/interrupts", "proc/not-there"} {
		b.Do("copy null for "+path, OpenTree, root, "dev/null", unix.OPEN_TREE_CLONE|closeOnExec).Save(mount)
		b.Do("mask "+path, MoveMount, mount, "", root, path, unix.MOVE_MOUNT_F_EMPTY_PATH).Ignore(syscall.ENOENT)
		b.Do("close null", Close, mount)
	}
	for _, path := range []string{"proc/not-there", "proc/sys"} {
		b.Do("copy "+path, OpenTree, root, path, unix.OPEN_TREE_CLONE|closeOnExec).Save(mount).SkipOnError(3, syscall.ENOENT)
		b.Do("make read-only "+path, MountSetattr, mount, "", unix.AT_EMPTY_PATH, b.MountAttr(unix.MOUNT_ATTR_RDONLY, 0, 0, 0), MountAttrSize)
		b.Do("attach "+path, MoveMount, mount, "", root, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
		b.Do("close "+path, Close, mount)
	}
	b.Do("limit core", Prlimit64, 0, unix.RLIMIT_CORE, b.Rlimit(0, 0), nil)
	b.Do("set umask", Umask, 0o22)
	dropPrivileges(b, 1<<unix.CAP_CHOWN|1<<unix.CAP_NET_BIND_SERVICE)
	allow := binary.LittleEndian.AppendUint32([]byte{6, 0, 0, 0}, 0x7fff0000) // return SECCOMP_RET_ALLOW
	b.Do("filter calls", Seccomp, unix.SECCOMP_SET_MODE_FILTER, 0, b.Fprog(allow))
	env := b.Vector([]string{"SECRET=hunter2", "PATH=/bin"})
	missing := b.NewLabel()
	b.Do("execute /bin/sh", Execve, "/bin/sh", []string{"sh", "-c", "true"}, env).JumpOnError(missing, syscall.ENOENT).JumpOnError(missing, syscall.ENOTDIR)
	b.Place(missing)
	b.Do("become pause", Execveat, FirstFD+2, "", []string{"/pause"}, env, unix.AT_EMPTY_PATH)
}

// pod runs a sandbox and returns it with a pidfd.
func pod(t *testing.T) (*launched, *linux.FD) {
	t.Helper()
	_, pause := stagePath(t)
	b := NewBuilder(Native())
	sandboxProgram(b)
	p := finish(t, b)
	l := start(t, run{program: p, files: []*linux.FD{pause}, sys: syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET}})
	if err := l.failed(p); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(l.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := linux.NewFD(fd, "pidfd of pause")
	t.Cleanup(func() { pidfd.Close() })
	return l, pidfd
}

// container launches a container program, perhaps a broken one, in a new PID namespace.
func container(t *testing.T, sandbox, pause *linux.FD, p *Program) *launched {
	t.Helper()
	root, err := linux.NewMount("tmpfs", 0, linux.Option{Key: "size", Value: "1m"})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return start(t, run{program: p, files: []*linux.FD{sandbox, root, pause}, sys: syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setsid: true}})
}

// status returns the fields of /proc/PID/status.
func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		k, v, _ := strings.Cut(line, ":")
		fields[k] = strings.Join(strings.Fields(v), " ")
	}
	return fields
}

func TestARealProgramLeavesWhatItWasToldTo(t *testing.T) {
	_, sandbox := pod(t)
	_, pause := stagePath(t)
	b := NewBuilder(Native())
	containerProgram(b)
	p := finish(t, b)
	l := container(t, sandbox, pause, p)
	if err := l.failed(p); err != nil {
		t.Fatal(err)
	}
	st := status(t, l.pid)
	for field, want := range map[string]string{
		"Uid": "65534 65534 65534 65534", "Gid": "65534 65534 65534 65534", "Groups": "1000 65534", "NoNewPrivs": "1", "Seccomp": "2",
		"CapBnd": "0000000000000401", "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "Umask": "0022",
	} {
		if st[field] != want {
			t.Errorf("%s is %q, want %q", field, st[field], want)
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", l.pid))
	if err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("limits, %v:\n%s", err, limits)
	}
	var points []string
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", l.pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(mounts)), "\n") {
		points = append(points, strings.Fields(line)[4])
	}
	if got := strings.Join(points, " "); got != "/ /proc /dev /proc/interrupts /proc/sys" {
		t.Errorf("mounts %s", got)
	}
}

// CVE-2024-21626 and its like: the report pipe, the program, the sandbox, the root, pause and all that ops opened are gone.
func TestNoDescriptorButStdioReachesTheTarget(t *testing.T) {
	podProcess, sandbox := pod(t)
	_, pause := stagePath(t)
	b := NewBuilder(Native())
	containerProgram(b)
	l := container(t, sandbox, pause, finish(t, b))
	for name, pid := range map[string]int{"pause": podProcess.pid, "container": l.pid} {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		var fds []string
		for _, e := range entries {
			fds = append(fds, e.Name())
		}
		if got := strings.Join(fds, " "); got != "0 1 2" {
			t.Errorf("%s has descriptors %s", name, got)
		}
	}
}

// Each op of a real program fails once; each time the report names it and the process ends.
func TestAFailureOfEachOpOfARealProgramIsReported(t *testing.T) {
	_, sandbox := pod(t)
	_, pause := stagePath(t)
	b := NewBuilder(Native())
	containerProgram(b)
	whole := finish(t, b)
	skipped := 0
	for op := range whole.Len() {
		broken := &Program{arch: whole.arch, ops: whole.ops, labels: whole.labels, blocks: whole.blocks, image: breakOp(t, whole, op, syscall.EIO)}
		l := container(t, sandbox, pause, broken)
		want := fmt.Sprintf("op %d (%s): input/output error", op, whole.OpName(op))
		err := l.failed(broken)
		if err == nil && strings.HasSuffix(whole.OpName(op), "proc/not-there") { // passed over by the op before
			skipped++
			continue
		}
		if err == nil || err.Error() != want {
			t.Fatalf("failed with %v, want %s", err, want)
		}
		if s := l.wait(); s.ExitStatus() != 125 {
			t.Errorf("op %d: ended with %v", op, s)
		}
	}
	if skipped != 3 {
		t.Errorf("%d ops were not performed, want the 3 after the missing path", skipped)
	}
}

// breakOp returns the program's image with an op that fails by itself.
func breakOp(t *testing.T, p *Program, op int, errno syscall.Errno) []byte {
	t.Helper()
	image := bytes.Clone(p.Image())
	le := binary.LittleEndian
	found := false
	for at := le.Uint64(image[8:]) - programBase; at+opSize <= uint64(len(image)); at += opSize {
		o := image[at:][:opSize]
		if le.Uint64(o[120:]) != uint64(op) {
			continue
		}
		found = true
		clear(o[4:56])
		le.PutUint32(o[4:], flagNoCall)
		le.PutUint64(o[8:], ^uint64(errno-1))
		clear(o[64:88])
		clear(o[96:104])
	}
	if !found {
		t.Fatalf("no op %d", op)
	}
	return image
}
