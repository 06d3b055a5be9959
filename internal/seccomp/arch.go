package seccomp

import (
	"cmp"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run mktable/main.go

// architecture is a system call convention the kernel tells apart, and a column of the table.
type architecture int

const (
	x86_64 architecture = iota
	x86
	aarch64
	arm
	architectures // count
)

// call is one row of the table.
type call struct {
	name   string
	number [architectures]int32
}

// audit are the values of seccomp_data.arch: AUDIT_ARCH_* of <linux/audit.h>.
var audit = [architectures]uint32{x86_64: 0xc000003e, x86: 0x40000003, aarch64: 0xc00000b7, arm: 0x40000028}

// armPrivate is where arm's own calls begin (cacheflush, set_tls): far above all others, so no measure of what is newest.
const armPrivate = 0xf0000

// x32Bit marks calls of the x32 convention, which shares x86_64's audit value: __X32_SYSCALL_BIT.
const x32Bit = 0x40000000

// numberOf returns the number of a call, false if the architecture lacks it or nobody knows it.
func (a architecture) numberOf(name string) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(table, name, func(c call, name string) int { return cmp.Compare(c.name, name) })
	if !ok || table[i].number[a] < 0 {
		return 0, false
	}
	return uint32(table[i].number[a]), true
}

// native returns the architecture of this machine. Those fermata is not built for have no table and no filter.
func native() (architecture, bool) {
	switch runtime.GOARCH {
	case "amd64":
		return x86_64, true
	case "arm64":
		return aarch64, true
	}
	return 0, false
}

// listed returns the architectures a profile is compiled for on a machine: its own, always, and first; the 32-bit one beside it if the
// profile lists it. Others that a profile lists cannot occur on this machine.
func listed(machine architecture, profile []specs.Arch) []architecture {
	list := []architecture{machine}
	for name, a := range map[specs.Arch]architecture{specs.ArchX86: x86, specs.ArchARM: arm} {
		if slices.Contains(profile, name) && (machine == x86_64) == (a == x86) {
			list = append(list, a)
		}
	}
	return list
}

// multiplexed are calls of x86 that also have a door through socketcall(2) or ipc(2), whose first argument says which: a rule for one must hold
// at both doors. (Calls since Linux 4.3 and 5.1 have numbers of their own.)
var multiplexed = map[string]struct {
	through string
	which   uint64
}{
	"socket": {"socketcall", 1}, "bind": {"socketcall", 2}, "connect": {"socketcall", 3}, "listen": {"socketcall", 4},
	"accept": {"socketcall", 5}, "getsockname": {"socketcall", 6}, "getpeername": {"socketcall", 7}, "socketpair": {"socketcall", 8},
	"send": {"socketcall", 9}, "recv": {"socketcall", 10}, "sendto": {"socketcall", 11}, "recvfrom": {"socketcall", 12},
	"shutdown": {"socketcall", 13}, "setsockopt": {"socketcall", 14}, "getsockopt": {"socketcall", 15}, "sendmsg": {"socketcall", 16},
	"recvmsg": {"socketcall", 17}, "accept4": {"socketcall", 18}, "recvmmsg": {"socketcall", 19}, "sendmmsg": {"socketcall", 20},
	"semop": {"ipc", 1}, "semget": {"ipc", 2}, "semctl": {"ipc", 3}, "semtimedop": {"ipc", 4},
	"msgsnd": {"ipc", 11}, "msgrcv": {"ipc", 12}, "msgget": {"ipc", 13}, "msgctl": {"ipc", 14},
	"shmat": {"ipc", 21}, "shmdt": {"ipc", 22}, "shmget": {"ipc", 23}, "shmctl": {"ipc", 24},
}
