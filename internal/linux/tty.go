package linux

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// devptsMagic is DEVPTS_SUPER_MAGIC.
const devptsMagic = 0x1cd1

// NewTerminal makes a pseudo-terminal of the devpts filesystem whose root f is: its two ends are found by descriptor alone
// (TIOCGPTPEER, Linux 4.13), so nobody's links or mounts can put another file in the place of either (CVE-2025-52565).
func (f *FD) NewTerminal() (master, slave *FD, err error) {
	magic, err := f.FilesystemMagic()
	if err != nil {
		return nil, nil, err
	}
	if magic != devptsMagic {
		return nil, nil, fmt.Errorf("make terminal in %s: not a devpts filesystem: %w", f.Name(), unix.ENOTTY)
	}
	if master, err = f.OpenNoLinks("ptmx", unix.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(master.Int(), unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	slave, err = retryFD("open", "terminal", func() (int, error) {
		n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master.Int()), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if e != 0 {
			return -1, e
		}
		return int(n), nil
	})
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// SetTerminalSize sets a terminal's rows and columns, in characters.
func (f *FD) SetTerminalSize(rows, columns uint16) error {
	if err := unix.IoctlSetWinsize(f.Int(), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		return fmt.Errorf("set size of %s: %w", f.Name(), err)
	}
	return nil
}
