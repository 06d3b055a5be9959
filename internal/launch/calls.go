package launch

import (
	"fmt"
	"runtime"
)

// Arch is a processor architecture the stage exists for.
type Arch uint8

// The architectures.
const (
	AMD64 Arch = iota
	ARM64
	arches
)

// Native returns the architecture this binary runs on.
func Native() Arch {
	if runtime.GOARCH == "arm64" {
		return ARM64
	}
	return AMD64
}

// String returns Go's name of the architecture.
func (a Arch) String() string {
	switch a {
	case AMD64:
		return "amd64"
	case ARM64:
		return "arm64"
	}
	return fmt.Sprintf("arch %d", uint8(a))
}

// Call names a system call independent of its number, which differs by architecture. Only calls that both architectures have are
// here: no open, mkdir or mknod, only their *at forms. The order of clone's last two arguments differs (tls, child_tid); programs leave both zero.
type Call uint8

// The calls. none is no call at all: the result is the first argument less the second.
const (
	none Call = iota
	Capset
	Chdir
	Chroot
	Clone
	Clone3
	Close
	CloseRange
	CopyFileRange
	Dup3
	Execve
	Execveat
	ExitGroup
	Faccessat2
	Fchdir
	Fchmod
	Fchmodat
	Fchown
	Fchownat
	Fcntl
	Fsconfig
	Fsetxattr
	Fsmount
	Fsopen
	Fspick
	Fstatfs
	Ftruncate
	Getcwd
	Getpid
	Getppid
	Ioctl
	IoprioSet
	Keyctl
	Kill
	LandlockRestrictSelf
	Linkat
	Mkdirat
	Mknodat
	Mount
	MountSetattr
	MoveMount
	Newfstatat
	OpenTree
	Openat
	Openat2
	Personality
	PidfdOpen
	PidfdSendSignal
	Pipe2
	PivotRoot
	Ppoll
	Prctl
	Prlimit64
	Read
	Readlinkat
	Renameat2
	RtSigaction
	RtSigprocmask
	SchedSetaffinity
	SchedSetattr
	SchedSetscheduler
	Seccomp
	SetMempolicy
	Setdomainname
	Setgroups
	Sethostname
	Setns
	Setpgid
	Setpriority
	Setresgid
	Setresuid
	Setsid
	Socket
	Statx
	Symlinkat
	Umask
	Umount2
	Unlinkat
	Unshare
	Wait4
	Waitid
	Write
	calls // count
)

// callInfo describes a call. args has one letter an argument: how the listing prints it and what the builder checks.
//
//	d decimal   x hexadecimal   o octal   f descriptor or AT_FDCWD   p address of data
//	v argument vector   e environment vector, of which only the names are shown
//	others: flags or an enumeration, see flags.go
type callInfo struct {
	name   string
	number [arches]int32
	args   string
}

var callTable = [calls]callInfo{
	none:                 {"let", [arches]int32{-1, -1}, "xx"},
	Capset:               {"capset", [arches]int32{126, 91}, "pp"},
	Chdir:                {"chdir", [arches]int32{80, 49}, "p"},
	Chroot:               {"chroot", [arches]int32{161, 51}, "p"},
	Clone:                {"clone", [arches]int32{56, 220}, "Gpppp"},
	Clone3:               {"clone3", [arches]int32{435, 435}, "pd"},
	Close:                {"close", [arches]int32{3, 57}, "f"},
	CloseRange:           {"close_range", [arches]int32{436, 436}, "dxR"},
	CopyFileRange:        {"copy_file_range", [arches]int32{326, 285}, "fpfpdx"},
	Dup3:                 {"dup3", [arches]int32{292, 24}, "ffO"},
	Execve:               {"execve", [arches]int32{59, 221}, "pve"},
	Execveat:             {"execveat", [arches]int32{322, 281}, "fpveA"},
	ExitGroup:            {"exit_group", [arches]int32{231, 94}, "d"},
	Faccessat2:           {"faccessat2", [arches]int32{439, 439}, "fpoA"},
	Fchdir:               {"fchdir", [arches]int32{81, 50}, "f"},
	Fchmod:               {"fchmod", [arches]int32{91, 52}, "fo"},
	Fchmodat:             {"fchmodat", [arches]int32{268, 53}, "fpo"},
	Fchown:               {"fchown", [arches]int32{93, 55}, "fdd"},
	Fchownat:             {"fchownat", [arches]int32{260, 54}, "fpddA"},
	Fcntl:                {"fcntl", [arches]int32{72, 25}, "fFx"},
	Fsconfig:             {"fsconfig", [arches]int32{431, 431}, "fKppd"},
	Fsetxattr:            {"fsetxattr", [arches]int32{190, 7}, "fppdx"},
	Fsmount:              {"fsmount", [arches]int32{432, 432}, "fcN"},
	Fsopen:               {"fsopen", [arches]int32{430, 430}, "pc"},
	Fspick:               {"fspick", [arches]int32{433, 433}, "fpE"},
	Fstatfs:              {"fstatfs", [arches]int32{138, 44}, "fp"},
	Ftruncate:            {"ftruncate", [arches]int32{77, 46}, "fd"},
	Getcwd:               {"getcwd", [arches]int32{79, 17}, "pd"},
	Getpid:               {"getpid", [arches]int32{39, 172}, ""},
	Getppid:              {"getppid", [arches]int32{110, 173}, ""},
	Ioctl:                {"ioctl", [arches]int32{16, 29}, "fxx"},
	IoprioSet:            {"ioprio_set", [arches]int32{251, 30}, "ddx"},
	Keyctl:               {"keyctl", [arches]int32{250, 219}, "dxxxx"},
	Kill:                 {"kill", [arches]int32{62, 129}, "dd"},
	LandlockRestrictSelf: {"landlock_restrict_self", [arches]int32{446, 446}, "fx"},
	Linkat:               {"linkat", [arches]int32{265, 37}, "fpfpA"},
	Mkdirat:              {"mkdirat", [arches]int32{258, 34}, "fpo"},
	Mknodat:              {"mknodat", [arches]int32{259, 33}, "fpox"},
	Mount:                {"mount", [arches]int32{165, 40}, "pppMp"},
	MountSetattr:         {"mount_setattr", [arches]int32{442, 442}, "fpApd"},
	MoveMount:            {"move_mount", [arches]int32{429, 429}, "fpfpV"},
	Newfstatat:           {"newfstatat", [arches]int32{262, 79}, "fppA"},
	OpenTree:             {"open_tree", [arches]int32{428, 428}, "fpT"},
	Openat:               {"openat", [arches]int32{257, 56}, "fpOo"},
	Openat2:              {"openat2", [arches]int32{437, 437}, "fppd"},
	Personality:          {"personality", [arches]int32{135, 92}, "x"},
	PidfdOpen:            {"pidfd_open", [arches]int32{434, 434}, "dx"},
	PidfdSendSignal:      {"pidfd_send_signal", [arches]int32{424, 424}, "fdpx"},
	Pipe2:                {"pipe2", [arches]int32{293, 59}, "pO"},
	PivotRoot:            {"pivot_root", [arches]int32{155, 41}, "pp"},
	Ppoll:                {"ppoll", [arches]int32{271, 73}, "pdppd"},
	Prctl:                {"prctl", [arches]int32{157, 167}, "Pdddd"},
	Prlimit64:            {"prlimit64", [arches]int32{302, 261}, "dLpp"},
	Read:                 {"read", [arches]int32{0, 63}, "fpd"},
	Readlinkat:           {"readlinkat", [arches]int32{267, 78}, "fppd"},
	Renameat2:            {"renameat2", [arches]int32{316, 276}, "fpfpx"},
	RtSigaction:          {"rt_sigaction", [arches]int32{13, 134}, "dppd"},
	RtSigprocmask:        {"rt_sigprocmask", [arches]int32{14, 135}, "dppd"},
	SchedSetaffinity:     {"sched_setaffinity", [arches]int32{203, 122}, "ddp"},
	SchedSetattr:         {"sched_setattr", [arches]int32{314, 274}, "dpx"},
	SchedSetscheduler:    {"sched_setscheduler", [arches]int32{144, 119}, "ddp"},
	Seccomp:              {"seccomp", [arches]int32{317, 277}, "dxp"},
	SetMempolicy:         {"set_mempolicy", [arches]int32{238, 237}, "dpd"},
	Setdomainname:        {"setdomainname", [arches]int32{171, 162}, "pd"},
	Setgroups:            {"setgroups", [arches]int32{116, 159}, "dp"},
	Sethostname:          {"sethostname", [arches]int32{170, 161}, "pd"},
	Setns:                {"setns", [arches]int32{308, 268}, "fC"},
	Setpgid:              {"setpgid", [arches]int32{109, 154}, "dd"},
	Setpriority:          {"setpriority", [arches]int32{141, 140}, "ddd"},
	Setresgid:            {"setresgid", [arches]int32{119, 149}, "ddd"},
	Setresuid:            {"setresuid", [arches]int32{117, 147}, "ddd"},
	Setsid:               {"setsid", [arches]int32{112, 157}, ""},
	Socket:               {"socket", [arches]int32{41, 198}, "dSd"},
	Statx:                {"statx", [arches]int32{332, 291}, "fpAxp"},
	Symlinkat:            {"symlinkat", [arches]int32{266, 36}, "pfp"},
	Umask:                {"umask", [arches]int32{95, 166}, "o"},
	Umount2:              {"umount2", [arches]int32{166, 39}, "pU"},
	Unlinkat:             {"unlinkat", [arches]int32{263, 35}, "fpD"},
	Unshare:              {"unshare", [arches]int32{272, 97}, "C"},
	Wait4:                {"wait4", [arches]int32{61, 260}, "dpxp"},
	Waitid:               {"waitid", [arches]int32{247, 95}, "ddpxp"},
	Write:                {"write", [arches]int32{1, 64}, "fpd"},
}

// String returns the call's name as the kernel writes it.
func (c Call) String() string {
	if c < calls {
		return callTable[c].name
	}
	return fmt.Sprintf("call %d", uint8(c))
}
