package launch

import "encoding/binary"

// Sizes of structures, for the calls that ask for them.
const (
	OpenHowSize   = 24
	MountAttrSize = 32
	SigsetSize    = 8
)

// Handlers of [Builder.SigAction].
const (
	SigDefault uint64 = 0
	SigIgnore  uint64 = 1
)

// OpenHow makes the struct open_how of openat2(2). O_CLOEXEC is added.
func (b *Builder) OpenHow(flags, mode, resolve uint64) Address {
	return b.Words(flags|closeOnExec, mode, resolve)
}

// MountAttr makes the struct mount_attr of mount_setattr(2). userns is the number of a descriptor, read with MOUNT_ATTR_IDMAP only.
func (b *Builder) MountAttr(set, clear, propagation, userns uint64) Address {
	return b.Words(set, clear, propagation, userns)
}

// CapHeader makes the header of capset(2), version 3, for the caller itself.
func (b *Builder) CapHeader() Address { return b.Words(0x20080522) }

// CapData makes the data of capset(2), version 3, from sets with bit n for capability n.
func (b *Builder) CapData(effective, permitted, inheritable uint64) Address {
	var data []byte
	for _, half := range []uint{0, 32} {
		for _, set := range []uint64{effective, permitted, inheritable} {
			data = binary.LittleEndian.AppendUint32(data, uint32(set>>half))
		}
	}
	return b.Bytes(data)
}

// Fprog makes the struct sock_fprog of seccomp(2) from an array of struct sock_filter (8 bytes each).
func (b *Builder) Fprog(filter []byte) Address {
	if len(filter)%8 != 0 || len(filter) == 0 || len(filter)/8 > 4096 { // BPF_MAXINSNS
		b.fail("seccomp filter", "%d bytes are no filter of 1 to 4096 instructions", len(filter))
		return b.empty
	}
	return b.Words(uint64(len(filter)/8), uint64(b.Bytes(filter)))
}

// SigAction makes the kernel's struct sigaction of rt_sigaction(2) with a handler, no flags and an empty mask.
func (b *Builder) SigAction(handler uint64) Address { return b.Words(handler, 0, 0, 0) }

// Rlimit makes the struct rlimit64 of prlimit64(2).
func (b *Builder) Rlimit(soft, hard uint64) Address { return b.Words(soft, hard) }

// Groups makes the list of setgroups(2).
func (b *Builder) Groups(gids []uint32) Address {
	data := make([]byte, 0, 4*len(gids))
	for _, g := range gids {
		data = binary.LittleEndian.AppendUint32(data, g)
	}
	return b.Bytes(data)
}
