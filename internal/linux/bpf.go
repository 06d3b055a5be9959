package linux

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpf calls bpf(2). attr holds addresses as numbers: whoever fills it keeps what they point to alive.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	// The verifier gives up with EAGAIN when a signal comes; Go's preemption sends many. Bounded, as libbpf does it.
	for tries := 0; ; tries++ {
		n, _, e := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		switch {
		case e == 0:
			return int(n), nil
		case e == unix.EINTR, e == unix.EAGAIN && tries < 30:
		default:
			return -1, e
		}
	}
}

// LoadDeviceProgram loads an eBPF program (struct bpf_insn each) that decides on device access: BPF_PROG_TYPE_CGROUP_DEVICE, Linux 4.15.
func LoadDeviceProgram(instructions []byte) (*FD, error) {
	const instructionSize = 8
	if len(instructions) == 0 || len(instructions)%instructionSize != 0 {
		return nil, fmt.Errorf("load device program: %d bytes: %w", len(instructions), unix.EINVAL)
	}
	license := append([]byte("Apache"), 0) // it calls no helper of the kernel's, so any will do
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&instructions[0])
	pins.Pin(&license[0])
	attr := struct {
		kind, count           uint32
		instructions, license uint64
		logLevel, logSize     uint32
		log                   uint64
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(instructions) / instructionSize),
		instructions: uint64(uintptr(unsafe.Pointer(&instructions[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	n, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, fmt.Errorf("load device program of %d instructions: %w", attr.count, err)
	}
	return NewFD(n, "device program"), nil // bpf(2) descriptors are close-on-exec
}

// AttachDeviceProgram adds a program to those that guard the cgroup2 directory f (each must allow): BPF_F_ALLOW_MULTI.
func (f *FD) AttachDeviceProgram(program *FD) error {
	attr := struct{ target, program, kind, flags uint32 }{uint32(f.Int()), uint32(program.Int()), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("attach device program to %s: %w", f.Name(), err)
	}
	return nil
}

// DetachDeviceProgram takes a program off the cgroup2 directory f. One that is not there any more is fine.
func (f *FD) DetachDeviceProgram(program *FD) error {
	attr := struct{ target, program, kind uint32 }{uint32(f.Int()), uint32(program.Int()), unix.BPF_CGROUP_DEVICE}
	if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("detach device program from %s: %w", f.Name(), err)
	}
	return nil
}

// DevicePrograms opens the programs attached to the cgroup2 directory f itself. Those a security module hides (EPERM, EACCES) are left out:
// they only restrict further.
func (f *FD) DevicePrograms() (programs []*FD, err error) {
	const most = 64 // BPF_CGROUP_MAX_PROGS
	ids := make([]uint32, most)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&ids[0])
	attr := struct {
		target, kind, queryFlags, attachFlags uint32
		ids                                   uint64
		count, _                              uint32
		// Linux 6.17 to 7.1 write the last field whatever size is passed: leave room for it.
		_, _, _, revision uint64
	}{target: uint32(f.Int()), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: most}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return nil, fmt.Errorf("list device programs of %s: %w", f.Name(), err)
	}
	for _, id := range ids[:min(attr.count, most)] {
		get := struct{ id uint32 }{id}
		n, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
		switch {
		case err == nil:
			programs = append(programs, NewFD(n, "device program"))
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT):
		default:
			CloseAll(programs...)
			return nil, fmt.Errorf("open device program %d: %w", id, err)
		}
	}
	return programs, nil
}
