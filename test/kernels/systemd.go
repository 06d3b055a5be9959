package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"fermata/internal/testkit/tools"
)

// unit runs the tests as a service of systemd's, in a cgroup that it delegates, with the console as their output.
const unit = `[Unit]
Description=fermata's tests
After=basic.target
[Service]
ExecStart=/init test
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Delegate=yes
KillMode=process
[Install]
WantedBy=multi-user.target
`

// writeDisk makes an ext4 image with Debian's base system and systemd, and the tests as a service.
func writeDisk(ctx context.Context, path, payload string) error {
	base, err := debian(ctx)
	if err != nil {
		return err
	}
	tree := path + ".tree"
	defer os.RemoveAll(tree)
	if out, err := exec.CommandContext(ctx, "cp", "-a", base, tree).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the base system: %w %s", err, out)
	}
	guest, err := tools.Own(ctx, "test/kernels/guest")
	if err != nil {
		return err
	}
	wants := filepath.Join(tree, "etc/systemd/system/multi-user.target.wants")
	err = errors.Join(
		os.MkdirAll(wants, 0o755), os.RemoveAll(tree+"/init"), copyFile(tree+"/init", guest), copyTree(tree+"/test", payload),
		os.WriteFile(tree+"/etc/systemd/system/fermata-test.service", []byte(unit), 0o644),
		os.Symlink("../fermata-test.service", wants+"/fermata-test.service"),
	)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-d", tree, path, "1G").CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs: %w %s", err, out)
	}
	return nil
}

// debian is a minimal Debian with systemd, made once.
func debian(ctx context.Context) (string, error) {
	cache, err := tools.Cache()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "debian-systemd")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include=systemd,iproute2,nftables", "bookworm", fresh)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("debootstrap (test/install installs it): %w\n%.2000s", err, out)
	}
	for _, rubbish := range []string{"var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"} {
		if err := os.RemoveAll(filepath.Join(fresh, rubbish)); err != nil {
			return "", err
		}
	}
	return dir, os.Rename(fresh, dir)
}
