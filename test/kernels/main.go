// Command kernels runs the e2e tests on other kernels than this machine's: Debian's, in virtual machines without hardware help. They differ
// in their first process (a small program of ours, systemd), control groups (v2 alone, v1 alone) and security module (AppArmor, SELinux).
//
//	go run ./test/kernels [-machine plain,systemd,selinux,v1] [-run REGEXP] [-v]
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
	"sync"
	"syscall"
	"time"

	"fermata/internal/testkit/tools"
)

type options struct {
	machines, kernel, run string
	verbose               bool
	timeout               time.Duration
	parallel              int
}

func main() {
	var o options
	flag.StringVar(&o.machines, "machine", "all", "which machines, by name")
	flag.StringVar(&o.kernel, "kernel", "linux-image-cloud-amd64", "Debian package of the kernel")
	flag.StringVar(&o.run, "run", "", "which e2e tests (each machine's own)")
	flag.IntVar(&o.parallel, "parallel", 2, "machines at a time, of one processor each")
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
	all, err := chosen(o.machines)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	failed, free := make([]error, len(all)), make(chan struct{}, o.parallel)
	for i := range all {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			failed[i] = all[i].try(ctx, dir, k, payload, o)
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// try makes a machine and boots it.
func (m *machine) try(ctx context.Context, dir string, k *kernel, payload string, o options) error {
	began := time.Now()
	v, err := m.prepare(ctx, dir, k, payload)
	if err == nil {
		err = v.boot(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("%s, %s: %w", k.release, m.name, err)
	}
	fmt.Printf("ok  %s, %s: %.0f s\n", k.release, m.name, time.Since(began).Seconds())
	return nil
}

// virtual is a machine to boot.
type virtual struct {
	*machine
	kernel, initramfs string
	disk              string // "" for none
}

// boot runs the machine until it powers itself off and reads the verdict from its console.
func (v *virtual) boot(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	run := o.run
	if run == "" {
		run = v.run
	}
	args := []string{
		"-accel", "tcg", "-cpu", "max", "-M", "q35", "-smp", "1", "-m", "1536", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", v.kernel, "-initrd", v.initramfs, "-append", "console=ttyS0 quiet panic=-1 mitigations=off e2e.run=" + run + " " + v.options,
	}
	if v.disk != "" {
		args = append(args, "-drive", "file="+v.disk+",format=raw,if=virtio,cache=unsafe")
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
	verdict, last := watch(console, v.name, o.verbose)
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
func watch(console io.Reader, name string, verbose bool) (verdict, last string) {
	lines := bufio.NewReader(console)
	var tail []string
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if verbose || strings.Contains(line, "--- ") || strings.HasPrefix(line, "guest: ") {
			fmt.Printf("%-8s%s\n", name, line)
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
