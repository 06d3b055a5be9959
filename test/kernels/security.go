package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"fermata/internal/testkit/tools"
)

// writeLibc brings what Debian's programs are linked with.
func writeLibc(ctx context.Context, tree string) error {
	libc, _, err := tools.Unpack(ctx, "libc6")
	if err != nil {
		return err
	}
	return errors.Join(
		copyFile(tree+"/lib64/ld-linux-x86-64.so.2", libc+"/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
		copyFile(tree+"/lib/x86_64-linux-gnu/libc.so.6", libc+"/lib/x86_64-linux-gnu/libc.so.6"),
	)
}

// writeAppArmor brings apparmor_parser, Debian's abstractions, which critest's profiles include, and sudo, by which critest runs it.
func writeAppArmor(ctx context.Context, tree string) error {
	dir, _, err := tools.Unpack(ctx, "apparmor")
	if err != nil {
		return err
	}
	err = errors.Join(
		copyFile(tree+"/sbin/apparmor_parser", dir+"/sbin/apparmor_parser"), copyTree(tree+"/etc/apparmor", dir+"/etc/apparmor"),
		copyTree(tree+"/usr/share/apparmor-features", dir+"/usr/share/apparmor-features"), // parser.conf names them
		os.MkdirAll(tree+"/var/cache/apparmor", 0o755),
		os.WriteFile(tree+"/bin/sudo", []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755),
	)
	for _, part := range []string{"abi", "abstractions", "tunables"} {
		err = errors.Join(err, copyTree(tree+"/etc/apparmor.d/"+part, dir+"/etc/apparmor.d/"+part))
	}
	return err
}

// writeSELinux brings a policy of our own, compiled here: a distribution's needs the distribution around it.
func writeSELinux(ctx context.Context, tree string) error {
	root, err := tools.Root()
	if err != nil {
		return err
	}
	dir, _, err := tools.Unpack(ctx, "secilc")
	if err != nil {
		return err
	}
	sepol, _, err := tools.Unpack(ctx, "libsepol2")
	if err != nil {
		return err
	}
	etc := tree + "/etc/selinux"
	if err := os.MkdirAll(etc+"/fermata/contexts", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(etc+"/categories.cil", categories(), 0o644); err != nil {
		return err
	}
	compile := exec.CommandContext(ctx, dir+"/usr/bin/secilc", "--policyvers=33", "--output="+etc+"/policy", "--filecontext="+etc+"/file_contexts",
		filepath.Join(root, "test/kernels/policy.cil"), etc+"/categories.cil")
	compile.Env = append(os.Environ(), "LD_LIBRARY_PATH="+sepol+"/lib/x86_64-linux-gnu:"+sepol+"/usr/lib/x86_64-linux-gnu")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the SELinux policy: %w\n%s", err, out)
	}
	const contexts = `process = "system_u:system_r:container_t:s0"
file = "system_u:object_r:container_file_t:s0"
ro_file = "system_u:object_r:container_ro_file_t:s0"
`
	return errors.Join(
		os.WriteFile(etc+"/config", []byte("SELINUX=enforcing\nSELINUXTYPE=fermata\n"), 0o644),
		os.WriteFile(etc+"/fermata/contexts/lxc_contexts", []byte(contexts), 0o644),
	)
}

// categories declares c0 to c1023, which policy.cil uses.
func categories() []byte {
	var all, order bytes.Buffer
	for c := range 1024 {
		fmt.Fprintf(&all, "(category c%d)\n", c)
		fmt.Fprintf(&order, " c%d", c)
	}
	fmt.Fprintf(&all, "(categoryorder (%s))\n", order.Bytes())
	return all.Bytes()
}
