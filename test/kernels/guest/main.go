// Command guest is the first process of a virtual machine that package kernels boots: it loads modules, makes a disk-like root, mounts
// what a Linux system has, runs the tests and says on the console how they ended.
//
// It is /init of the initramfs ("guest" as process 1), and with systemd the program of one unit ("guest test").
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Verdict begins the console line that tells the host how it ended; the exit code follows.
const verdict = "GUEST-ENDED-WITH "

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "test":
		err = test()
	case len(os.Args) > 1 && os.Args[1] == "second":
		err = second()
	default:
		err = first()
	}
	if err != nil {
		say("guest: %v", err)
		say("%s1", verdict)
		off()
	}
}

// first runs from the initramfs: it loads modules and goes on in a root that can be pivoted from, which an initramfs cannot.
func first() error {
	for _, m := range []struct{ what, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.what, m.at, m.what, 0, ""); err != nil {
			return err
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/block/vda"); err == nil {
		if err := mount("/dev/vda", "/new", "ext4", 0, ""); err != nil {
			return err
		}
		say("guest: starting systemd after %s s", uptime())
		return syscall.Exec("/bin/busybox", []string{"switch_root", "/new", "/lib/systemd/systemd"}, os.Environ())
	}
	if err := mount("tmpfs", "/new", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64", "usr", "etc", "test", "init"} {
		if _, err := os.Stat("/" + dir); err != nil {
			continue
		}
		if out, err := exec.Command("/bin/busybox", "cp", "-a", "/"+dir, "/new/").CombinedOutput(); err != nil {
			return fmt.Errorf("copy %s: %w %s", dir, err, out)
		}
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "root", "var"} {
		if err := os.MkdirAll("/new/"+dir, 0o755); err != nil {
			return err
		}
	}
	return syscall.Exec("/bin/busybox", []string{"switch_root", "/new", "/init", "second"}, os.Environ())
}

// second is process 1 in the new root: it mounts, starts the tests and reaps until they end.
func second() error {
	for _, m := range []struct{ what, at, kind, options string }{
		{"proc", "/proc", "proc", ""}, {"sysfs", "/sys", "sysfs", ""}, {"devtmpfs", "/dev", "devtmpfs", ""},
		{"devpts", "/dev/pts", "devpts", "ptmxmode=666"}, {"tmpfs", "/dev/shm", "tmpfs", ""}, {"mqueue", "/dev/mqueue", "mqueue", ""},
		{"tmpfs", "/run", "tmpfs", "mode=755"}, {"tmpfs", "/tmp", "tmpfs", ""}, {"securityfs", "/sys/kernel/security", "securityfs", ""},
	} {
		if err := mount(m.what, m.at, m.kind, 0, m.options); err != nil {
			return err
		}
	}
	if err := mountCgroups(kernelOption("e2e.cgroups")); err != nil {
		return err
	}
	if err := loadPolicy(); err != nil {
		return err
	}
	say("guest: process 1 after %s s", uptime())
	pid, err := syscall.ForkExec("/init", []string{"/init", "test"}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		if ended, err := syscall.Wait4(-1, &status, 0, nil); err == nil && ended == pid {
			return fmt.Errorf("the tests ended without a verdict: %v", status)
		}
	}
}

// test runs the e2e tests and ends the machine.
func test() error {
	for _, e := range []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "FERMATA_TEST_SLOW=1",
		"FERMATA_TEST_IMAGES=/test/images", "FERMATA_TEST_BINARY=/test/fermata", "FERMATA_TEST_CRICTL=/test/crictl",
		"FERMATA_TEST_CRITEST=/test/critest",
	} {
		name, value, _ := strings.Cut(e, "=")
		os.Setenv(name, value)
	}
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		return fmt.Errorf("lo up: %w %s", err, out)
	}
	say("guest: tests begin after %s s", uptime())
	cmd := exec.Command("/test/e2e.test", "-test.v", "-test.timeout", "20m", "-test.run", kernelOption("e2e.run"))
	cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stdout, os.Stderr, "/test"
	err = cmd.Run()
	say("guest: tests ended after %s s: %v", uptime(), cmd.ProcessState)
	code := 0
	if err != nil {
		code = 1
		sayDenials()
	}
	say("%s%d", verdict, code)
	off()
	return nil
}

// mountCgroups mounts version 2 alone, or every controller's hierarchy of version 1 and no version 2.
func mountCgroups(version string) error {
	if version != "v1" {
		return mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "")
	}
	if err := mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	list, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		if name, _, _ := strings.Cut(line, "\t"); !strings.HasPrefix(name, "#") {
			if err := mount(name, "/sys/fs/cgroup/"+name, "cgroup", 0, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadPolicy loads the SELinux policy, if one was brought along, and enforces it.
func loadPolicy() error {
	policy, err := os.ReadFile("/etc/selinux/policy")
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := mount("selinuxfs", "/sys/fs/selinux", "selinuxfs", 0, ""); err != nil {
		return err
	}
	for _, w := range []struct {
		file string
		data []byte
	}{{"load", policy}, {"enforce", []byte("1")}} {
		f, err := os.OpenFile("/sys/fs/selinux/"+w.file, os.O_WRONLY, 0) // one write each, and no truncation
		if err != nil {
			return err
		}
		_, err = f.Write(w.data)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("SELinux policy: %w", err)
		}
	}
	return nil
}

// loadModules loads what the host listed, in that order.
func loadModules() error {
	list, err := os.Open("/modules/list")
	if err != nil {
		return err
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		out, err := exec.Command("/bin/busybox", "insmod", filepath.Join("/modules", lines.Text())).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "File exists") {
			return fmt.Errorf("load %s: %w %s", lines.Text(), err, out)
		}
	}
	return lines.Err()
}

// sayDenials shows what security modules refused lately: nothing else says why a container could not.
func sayDenials() {
	log, _ := exec.Command("dmesg").Output()
	var denied []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "avc:  denied") || strings.Contains(line, `apparmor="DENIED"`) {
			denied = append(denied, line)
		}
	}
	for _, line := range denied[max(0, len(denied)-40):] {
		fmt.Print(line)
	}
}

func mount(what, at, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(what, at, kind, flags, options); err != nil && err != syscall.EBUSY {
		return fmt.Errorf("mount %s at %s: %w", what, at, err)
	}
	return nil
}

// kernelOption is a word of the kernel's command line, "name=value".
func kernelOption(name string) string {
	line, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(line)) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

func uptime() string {
	text, _ := os.ReadFile("/proc/uptime")
	seconds, _, _ := strings.Cut(string(text), " ")
	return seconds
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// off ends the machine; the console has a moment to be written out.
func off() {
	syscall.Sync()
	time.Sleep(200 * time.Millisecond)
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
