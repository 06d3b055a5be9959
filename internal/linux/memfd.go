package linux

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// SealedMemory returns an anonymous file with the given contents that nobody can change any more. It is not executable
// (MFD_NOEXEC_SEAL, Linux 6.3; older kernels do without: the seals on contents are the same).
func SealedMemory(name string, contents []byte) (*FD, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	n, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		n, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("make sealed memory %s: %w", name, err)
	}
	f := NewFD(n, "memory "+name)
	if _, err := f.Write(contents); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal memory %s: %w", name, err)
	}
	return f, nil
}
