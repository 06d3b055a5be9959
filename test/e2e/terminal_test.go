package e2e

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
)

// person sits at a terminal of the machine's at which a program runs.
type person struct {
	t    *testing.T
	cmd  *exec.Cmd
	file *os.File
	size func(rows, columns uint16) error
	seen string
}

// sit starts a program at a terminal of its own, of 37 lines of 111 characters.
func sit(t *testing.T, cmd *exec.Cmd) *person {
	t.Helper()
	devpts, err := linux.OpenDir("/dev/pts")
	check(t, err)
	defer devpts.Close()
	master, slave, err := devpts.NewTerminal()
	check(t, err)
	theirs := slave.File()
	defer theirs.Close()
	check(t, master.SetTerminalSize(37, 111))
	check(t, master.SetNonblock(true))
	typing, err := master.Dup()
	check(t, err)
	p := &person{t: t, cmd: cmd, file: typing.File(), size: master.SetTerminalSize}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // it is told when the size changes
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		p.file.Close()
		master.Close()
	})
	check(t, p.file.SetDeadline(time.Now().Add(30*time.Second)))
	return p
}

// expect reads until want has been shown, and forgets what came up to then.
func (p *person) expect(want string) {
	p.t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(p.seen, want) {
		n, err := p.file.Read(buf)
		p.seen += string(buf[:n])
		if err != nil {
			p.t.Fatalf("no %q in %q: %v", want, p.seen, err)
		}
	}
	_, p.seen, _ = strings.Cut(p.seen, want)
}

func (p *person) say(keys string) {
	p.t.Helper()
	_, err := io.WriteString(p.file, keys)
	check(p.t, err)
}

// status waits for the program's end.
func (p *person) status() int {
	p.t.Helper()
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}
