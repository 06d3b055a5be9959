package images

import "encoding/binary"

// pauseELF is the peers' pause (fermata has its own): it ignores SIGCHLD, so that the kernel reaps, and sleeps for ever. As small as
// the published one or smaller, so that the peers' memory is not overstated. x86-64 only, as the tests with peers are.
func pauseELF() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0x6a, 0x00, 0x6a, 0x00, 0x6a, 0x00, 0x6a, 0x01, // push 0,0,0 (flags, restorer, mask), SIG_IGN
		0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
		0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
		0x48, 0x89, 0xe6, // mov rsi, rsp
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to mov
	}
	size := uint64(headers + len(code))
	le := binary.LittleEndian
	b := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, make([]byte, 9)...)
	b = le.AppendUint16(b, 2)                         // ET_EXEC
	b = le.AppendUint16(b, 62)                        // EM_X86_64
	b = le.AppendUint32(b, 1)                         // version
	b = le.AppendUint64(b, base+headers)              // entry
	b = le.AppendUint64(b, 64)                        // program headers
	b = le.AppendUint64(b, 0)                         // section headers
	b = le.AppendUint32(b, 0)                         // flags
	for _, n := range []uint16{64, 56, 1, 64, 0, 0} { // sizes and counts
		b = le.AppendUint16(b, n)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable, executable
	for _, n := range []uint64{0, base, base, size, size, 0x1000} {
		b = le.AppendUint64(b, n)
	}
	return append(b, code...)
}
