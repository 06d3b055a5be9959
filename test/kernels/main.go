// Command kernels runs the e2e tests on other kernels than this machine's: Debian's, in a virtual machine without hardware help, with
// cgroup v2 alone. Once the first process is a small program of ours, once it is systemd.
//
//	go run ./test/kernels [-init plain,systemd] [-run REGEXP] [-v]
//
// Nothing is installed but qemu: the kernel is unpacked from its Debian package, and the root file system is made here.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fermata/internal/testkit/tools"
)

type options struct {
	inits, kernel, run string
	verbose            bool
	timeout            time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.inits, "init", "plain,systemd", "first processes to try")
	flag.StringVar(&o.kernel, "kernel", "linux-image-cloud-amd64", "Debian package of the kernel")
	flag.StringVar(&o.run, "run", "Localhost|NonRoot|End|Limits|Killed|Parallel", "which e2e tests")
	flag.BoolVar(&o.verbose, "v", false, "show the console")
	flag.DurationVar(&o.timeout, "timeout", 8*time.Minute, "limit for one machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := runAll(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func runAll(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	k, err := unpackKernel(ctx, o.kernel)
	if err != nil {
		return err
	}
	payload, err := buildPayload(ctx, filepath.Join(dir, "payload"))
	if err != nil {
		return err
	}
	var failed []error
	for _, first := range strings.Split(o.inits, ",") {
		began := time.Now()
		m, err := prepare(ctx, dir, first, k, payload)
		if err == nil {
			err = m.boot(ctx, o)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s, %s: %w", k.release, first, err))
			continue
		}
		fmt.Printf("ok  %s, %s: %.0f s\n", k.release, first, time.Since(began).Seconds())
	}
	return errors.Join(failed...)
}

// virtual is a machine to boot.
type virtual struct {
	name, kernel, initramfs string
	disk                    string // "" for none
}

// prepare makes the initramfs, and for systemd the disk.
func prepare(ctx context.Context, dir, first string, k *kernel, payload string) (*virtual, error) {
	m := &virtual{name: first, kernel: k.image, initramfs: filepath.Join(dir, first+".cpio")}
	switch first {
	case "plain":
		return m, writeInitramfs(ctx, m.initramfs, k, payload)
	case "systemd":
		m.disk = filepath.Join(dir, "disk")
		return m, errors.Join(writeInitramfs(ctx, m.initramfs, k, ""), writeDisk(ctx, m.disk, payload))
	}
	return nil, errors.New("unknown first process: want plain or systemd")
}

// boot runs the machine until it powers itself off and reads the verdict from its console.
func (m *virtual) boot(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-smp", "2", "-m", "1536", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", m.kernel, "-initrd", m.initramfs, "-append", "console=ttyS0 quiet panic=-1 mitigations=off e2e.run=" + o.run,
	}
	if m.disk != "" {
		args = append(args, "-drive", "file="+m.disk+",format=raw,if=virtio,cache=unsafe")
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	console, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start qemu (test/install installs it): %w", err)
	}
	verdict, last := watch(console, o.verbose)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("not done in %v; the console ends:\n%s", o.timeout, last)
	case verdict == "0":
		return nil
	case verdict == "":
		return fmt.Errorf("no verdict (%v); the console ends:\n%s", err, last)
	}
	return fmt.Errorf("the tests failed; the console ends:\n%s", last)
}

// watch reads the console to its end and returns the verdict and the last lines; progress is shown.
func watch(console io.Reader, verbose bool) (verdict, last string) {
	lines := bufio.NewReader(console)
	var tail []string
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if verbose || strings.Contains(line, "--- ") || strings.HasPrefix(line, "guest: ") {
			fmt.Println(line)
		}
		if _, code, ok := strings.Cut(line, "GUEST-ENDED-WITH "); ok {
			verdict = code
		}
		tail = append(tail, line)
		if len(tail) > 120 {
			tail = tail[1:]
		}
		if err != nil {
			return verdict, strings.Join(tail, "\n")
		}
	}
}

// kernel is an unpacked kernel package.
type kernel struct {
	release, image, modules string
}

func unpackKernel(ctx context.Context, pkg string) (*kernel, error) {
	image, err := tools.Dependency(ctx, pkg, "linux-image-")
	if err != nil {
		return nil, err
	}
	dir, _, err := tools.Unpack(ctx, image)
	if err != nil {
		return nil, err
	}
	release := strings.TrimPrefix(image, "linux-image-")
	return &kernel{release, filepath.Join(dir, "boot/vmlinuz-"+release), filepath.Join(dir, "lib/modules", release)}, nil
}
