package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// usual are the tests that every kind of machine runs.
const usual = "ReachEachOther|OpensItsOutput|ToldAsItWas|LimitsAreTheKernels"

// machine is a kind of machine to boot.
type machine struct {
	name string
	// options are added to the kernel's command line; those that begin with "e2e." are for the guest program.
	options string
	// run says which e2e tests.
	run string
	// disk: systemd is started from a disk of Debian's, instead of our program from memory.
	disk bool
	// extras bring more into the system in memory.
	extras []func(ctx context.Context, tree string) error
}

// machines are all there are, in the order in which they are started: the long ones first. Debian has AppArmor on when nothing else is said.
var machines = []machine{
	{name: "plain", run: usual + "|KilledDaemonLoses|ManyPods|AppArmor|SecurityModule", extras: []func(context.Context, string) error{writeLibc, writeAppArmor}},
	// Its disk is ext4: the others' tmpfs cannot be mounted for a user namespace before Linux 6.3.
	{name: "systemd", run: usual + "|KilledDaemonLoses|ManyPods|TestAPodWithAUserNamespace|UserNamespacesThat", disk: true},
	{name: "selinux", options: "security=selinux selinux=1", run: usual + "|AtATerminal|AnImageIs|SecurityContextSays|SELinux|SecurityModule", extras: []func(context.Context, string) error{writeSELinux}},
	// No test of many pods: with one processor each of a dozen hierarchies makes a process wait for its turn to move.
	{name: "v1", options: "apparmor=0 e2e.cgroups=v1", run: usual + "|KilledDaemonLoses|AtATerminal|TimedOutProbe|SecurityContextSays"},
}

// chosen are the machines with these names, separated by commas.
func chosen(names string) ([]machine, error) {
	var found []machine
	for _, name := range strings.Split(names, ",") {
		before := len(found)
		for _, m := range machines {
			if m.name == name || name == "all" {
				found = append(found, m)
			}
		}
		if len(found) == before {
			return nil, fmt.Errorf("machine %q: there is none", name)
		}
	}
	return found, nil
}

// prepare makes the initramfs, and for systemd the disk.
func (m *machine) prepare(ctx context.Context, dir string, k *kernel, payload string) (*virtual, error) {
	v := &virtual{machine: m, kernel: k.image, initramfs: filepath.Join(dir, m.name+".cpio")}
	if !m.disk {
		return v, m.writeInitramfs(ctx, v.initramfs, k, payload)
	}
	v.disk = filepath.Join(dir, "disk")
	return v, errors.Join(m.writeInitramfs(ctx, v.initramfs, k, ""), writeDisk(ctx, v.disk, payload))
}
