package native

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/seccomp"
	"fermata/internal/spec"
)

// This file has what every process needs whatever it joins, by the order in which programs use it: containers and execs come by their
// identity through the same ops (CVE-2025-27612: an exec that got more than its container).

// joinCgroups moves the process into its v1 groups; it was born in the v2 one.
func (a *assembly) joinCgroups(j *cgroup.Join) error {
	if j == nil {
		return nil
	}
	a.plan.Cgroup = j.Dir
	for _, procs := range j.Procs {
		fd, err := a.lend(procs)
		if err != nil {
			return err
		}
		a.Do("join control group "+path.Base(path.Dir(procs.Name())), launch.Write, fd, "0", 1)
	}
	return nil
}

// oomScoreAdj sets the process's readiness to be killed for memory, always: what is inherited is the keeper's, which is protected.
// Lowering it needs CAP_SYS_RESOURCE and is given up without (EACCES).
func (a *assembly) oomScoreAdj(value int) error {
	procfs, err := a.lend(a.h.procfs)
	if err != nil {
		return err
	}
	file, text := a.NewSlot(), fmt.Sprint(value)
	a.Do("open oom_score_adj", launch.Openat2, procfs, "self/oom_score_adj", a.OpenHow(syscall.O_WRONLY, 0, resolveInRoot|resolveNoMagiclinks), launch.OpenHowSize).Save(file)
	a.Do("set oom_score_adj", launch.Write, file, text, len(text)).Ignore(syscall.EACCES)
	a.Do("close oom_score_adj", launch.Close, file)
	return nil
}

// reset undoes what a process inherits from the keeper: CPU affinity (the container's is its cpuset's), umask, signals blocked or
// ignored.
func (a *assembly) reset() {
	allCPUs := slices.Repeat([]byte{0xff}, 1024)
	a.Do("reset CPU affinity", launch.SchedSetaffinity, 0, len(allCPUs), allCPUs).IgnoreErrors()
	a.Do("set umask", launch.Umask, 0o022)
	a.Do("unblock signals", launch.RtSigprocmask, sigSetMask, make([]byte, launch.SigsetSize), nil, launch.SigsetSize)
	// Only an ignored signal stays so over execve: those that daemons and shells ignore, and glibc's own two (SIGCANCEL, SIGSETXID), which its
	// posix_spawn leaves ignored in what GNU make starts.
	byDefault := a.SigAction(launch.SigDefault)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGCHLD, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, 32, 33} {
		a.Do(fmt.Sprintf("reset signal %d", int(s)), launch.RtSigaction, int(s), byDefault, nil, launch.SigsetSize)
	}
}

// rlimits are numbered as in asm-generic/resource.h.
var rlimits = []string{
	"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK",
	"RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
}

func (a *assembly) limit(limits []specs.POSIXRlimit) error {
	for _, l := range limits {
		n := slices.Index(rlimits, l.Type)
		if n < 0 {
			return errs.New(errs.InvalidArgument, "process.rlimits: unknown limit %q", l.Type)
		}
		a.Do("set "+l.Type, launch.Prlimit64, 0, n, a.Rlimit(l.Soft, l.Hard), nil)
	}
	return nil
}

// terminal makes the process the leader of a session whose terminal is its stdin.
func (a *assembly) terminal(tty bool) {
	a.Do("begin session", launch.Setsid).Ignore(syscall.EPERM) // a leader already: the keeper makes sessions too
	if tty {
		a.Do("take the terminal", launch.Ioctl, 0, tiocsctty, 0)
	}
}

// enterDirectory changes to the working directory by descriptor, inside the root, and checks that it is in sight of it
// (CVE-2024-21626): getcwd(2) gives "(unreachable)…" for what is not, which is no absolute path and means nothing without a directory.
//
// What root may not enter, its user may (NFS with root_squash): tried again by the op list that it returns, to be used when the process
// has become its user and still has its descriptors.
func (a *assembly) enterDirectory(root any, dir string) (again func()) {
	at, done, where := a.NewSlot(), a.NewSlot(), a.Bytes(make([]byte, 4096))
	enter := func(denied func(*launch.Op)) {
		denied(a.Do("open working directory "+dir, launch.Openat2, root, dir, a.inRootDir, launch.OpenHowSize).Save(at).Retry(maxTries, syscall.EAGAIN))
		denied(a.Do("enter working directory "+dir, launch.Fchdir, at))
		a.Do("find working directory", launch.Getcwd, where, 4096)
		a.Do("check working directory", launch.Faccessat2, -1, where, 0, 0).Ignore(syscall.EACCES)
		a.Do("close working directory", launch.Close, at)
	}
	denied := a.NewLabel()
	enter(func(o *launch.Op) { o.JumpOnError(denied, syscall.EACCES, syscall.EPERM) })
	a.Let("in working directory", done, 1)
	a.Place(denied)
	return func() {
		inside := a.NewLabel()
		a.Test("in working directory", done).JumpIfPositive(inside)
		enter(func(*launch.Op) {})
		a.Place(inside)
	}
}

// identity is who a process becomes.
type identity struct {
	uid, gid  uint32
	groups    []uint32
	caps      *specs.LinuxCapabilities // nil: none
	noNewPriv bool
	filter    *seccomp.Filter // nil: unconfined
}

func identityOf(p *specs.Process, profile *specs.LinuxSeccomp) (identity, error) {
	id := identity{uid: p.User.UID, gid: p.User.GID, groups: p.User.AdditionalGids, caps: p.Capabilities, noNewPriv: p.NoNewPrivileges}
	if profile == nil {
		return id, nil
	}
	if profile.ListenerPath != "" {
		return id, errs.New(errs.Unimplemented, "seccomp profile: listenerPath is not supported")
	}
	var err error
	id.filter, err = seccomp.Compile(profile)
	return id, err
}

// become drops every privilege that is not the identity's. Without no_new_privs the filter needs CAP_SYS_ADMIN, so it is loaded before
// the capabilities go and must let the calls that follow pass, as with every runtime; with it, filter loads it as the last thing.
func (a *assembly) become(id identity) error {
	bounding, err := capabilityMask(id.caps, func(c *specs.LinuxCapabilities) []string { return c.Bounding })
	if err != nil {
		return err
	}
	for c := 0; c <= a.h.lastCap; c++ {
		if bounding&(1<<c) == 0 {
			a.Do("drop capability from bounding set: "+capabilityName(c), launch.Prctl, prCapBSetDrop, c, 0, 0, 0)
		}
	}
	if id.noNewPriv {
		a.Do("set no_new_privs", launch.Prctl, prSetNoNewPrivs, 1, 0, 0, 0)
	} else {
		a.loadFilter(id)
	}
	if id.uid != 0 {
		a.Do("keep capabilities", launch.Prctl, prSetKeepCaps, 1, 0, 0, 0)
	}
	a.Do("set groups", launch.Setgroups, len(id.groups), a.Groups(id.groups))
	a.Do("set group", launch.Setresgid, id.gid, id.gid, id.gid)
	a.Do("set user", launch.Setresuid, id.uid, id.uid, id.uid)
	return a.capabilities(id.caps)
}

func (a *assembly) capabilities(caps *specs.LinuxCapabilities) error {
	masks := [4]uint64{}
	for i, set := range []func(*specs.LinuxCapabilities) []string{
		func(c *specs.LinuxCapabilities) []string { return c.Effective },
		func(c *specs.LinuxCapabilities) []string { return c.Permitted },
		func(c *specs.LinuxCapabilities) []string { return c.Inheritable },
		func(c *specs.LinuxCapabilities) []string { return c.Ambient },
	} {
		var err error
		if masks[i], err = capabilityMask(caps, set); err != nil {
			return err
		}
	}
	a.Do("clear ambient capabilities", launch.Prctl, prCapAmbient, prCapAmbientClear, 0, 0, 0)
	a.Do("set capabilities", launch.Capset, a.CapHeader(), a.CapData(masks[0], masks[1], masks[2]))
	for c := 0; c < 64; c++ {
		if masks[3]&(1<<c) != 0 {
			a.Do("raise ambient capability "+capabilityName(c), launch.Prctl, prCapAmbient, prCapAmbientRaise, c, 0, 0)
		}
	}
	return nil
}

// lastFilter is the filter's place with no_new_privs.
func (a *assembly) lastFilter(id identity) {
	if id.noNewPriv {
		a.loadFilter(id)
	}
}

func (a *assembly) loadFilter(id identity) {
	if id.filter != nil {
		a.Do("load seccomp filter", launch.Seccomp, seccompSetModeFilter, id.filter.Flags(), a.Fprog(id.filter.Bytes()))
	}
}

func capabilityMask(caps *specs.LinuxCapabilities, set func(*specs.LinuxCapabilities) []string) (uint64, error) {
	var mask uint64
	if caps == nil {
		return 0, nil
	}
	for _, name := range set(caps) {
		n := slices.Index(spec.CapabilityNames, name)
		if n < 0 {
			return 0, errs.New(errs.InvalidArgument, "process.capabilities: unknown capability %q", name)
		}
		mask |= 1 << n
	}
	return mask, nil
}

func capabilityName(c int) string {
	if c < len(spec.CapabilityNames) {
		return spec.CapabilityNames[c]
	}
	return fmt.Sprintf("capability %d", c)
}

// execute ends the program with the process's own. A command without a slash is looked up now, inside the final root, where volumes may
// have brought it.
func (a *assembly) execute(p *specs.Process) error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return errs.New(errs.InvalidArgument, "process.args: no command")
	}
	a.command = p.Args[0]
	a.ExecFirst(candidates(p.Args[0], p.Env), a.Vector(p.Args), a.Vector(p.Env))
	return nil
}

// candidates are the files that a command may mean. Relative entries of PATH are passed over: they would name what lies in the
// working directory.
func candidates(command string, env []string) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	var files []string
	for _, e := range env {
		value, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range strings.Split(value, ":") {
			if strings.HasPrefix(dir, "/") {
				files = append(files, path.Join(dir, command))
			}
		}
		break
	}
	return files
}

// toPIDNamespace continues the program in a child, in the PID namespace that setns has chosen for it: setns moves children only. The
// caller has dropped every privilege, and every descriptor but the stdio and the report's goes now, so that no process of that
// namespace ever meets one with more than its own (CVE-2016-9962, R1).
func (a *assembly) toPIDNamespace() {
	child, pid := a.NewLabel(), a.NewSlot()
	a.Do("close what only the parent may have", launch.CloseRange, launch.ReportFD+1, uint32(0xffffffff), 0)
	a.Do("clone into the PID namespace", launch.Clone, cloneParent|int(syscall.SIGCHLD), 0, 0, 0, 0).Save(pid).JumpIfZero(child)
	a.ReportPID(pid)
	a.Do("leave it to the child", launch.ExitGroup, 0)
	a.Place(child)
}

// failure is an errno in other words.
type failure struct {
	text  string
	errno syscall.Errno
}

func (f failure) Error() string { return f.text }
func (f failure) Unwrap() error { return f.errno }

// explain puts failures of execve, and of entering a container that has ended, in the words users know; nil for all others.
func explain(p *launch.Program, command string) func(int, syscall.Errno) error {
	return func(op int, errno syscall.Errno) error {
		name := p.OpName(op)
		if name == enterContainer && errno == syscall.ESRCH {
			return errs.New(errs.FailedPrecondition, "the container has ended: %w", errno)
		}
		if !strings.HasPrefix(name, "execute ") && !strings.HasPrefix(name, "find executable ") {
			return nil
		}
		if errno == syscall.ENOENT && !strings.Contains(command, "/") {
			return errs.Blame(fmt.Errorf("exec %q: %w", command, failure{"executable file not found in $PATH", errno}), "program", command)
		}
		return errs.Blame(fmt.Errorf("exec %q: %w", command, errno), "program", command)
	}
}

// enter joins a namespace; nil is the host's, which the process is born in.
func (a *assembly) enter(name string, ns *linux.FD, kind int) error {
	if ns == nil {
		return nil
	}
	fd, err := a.lend(ns)
	if err != nil {
		return err
	}
	a.Do("enter "+name+" namespace", launch.Setns, fd, kind)
	return nil
}
