package selinux

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

// Options say where things are; the zero value is this machine.
type Options struct {
	// Etc is the policies' directory, "" for /etc/selinux.
	Etc string
	// Filesystem is selinuxfs's mount point, "" for /sys/fs/selinux.
	Filesystem string
}

func (o Options) filled() Options {
	if o.Etc == "" {
		o.Etc = "/etc/selinux"
	}
	if o.Filesystem == "" {
		o.Filesystem = "/sys/fs/selinux"
	}
	return o
}

// Enabled reports whether SELinux is on and has a policy: without one every process is "kernel".
func Enabled() bool {
	if _, err := os.Stat(Options{}.filled().Filesystem + "/enforce"); err != nil {
		return false
	}
	b, err := os.ReadFile("/proc/self/attr/current")
	return err == nil && string(bytes.TrimRight(b, "\x00\n")) != "kernel"
}

// Policy is the policy in force.
type Policy struct{ o Options }

// Open returns the policy.
func Open(o Options) *Policy { return &Policy{o.filled()} }

// Containers reads the labels that the policy has for containers, from contexts/lxc_contexts of the policy that config names, the file that
// all runtimes go by. None where there is no such file.
func (p *Policy) Containers() (spec.SELinux, error) {
	kind, err := values(filepath.Join(p.o.Etc, "config"))
	if err != nil {
		return spec.SELinux{}, err
	}
	contexts, err := values(filepath.Join(p.o.Etc, kind["SELINUXTYPE"], "contexts/lxc_contexts"))
	if err != nil {
		return spec.SELinux{}, err
	}
	return spec.SELinux{Process: contexts["process"], File: contexts["file"], Image: contexts["ro_file"]}, nil
}

// values reads lines "name = value", the value perhaps in quotes; none if there is no such file.
func values(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); ok && !strings.HasPrefix(name, "#") {
			found[name] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return found, nil
}

// Check asks the kernel whether a label is one of its policy's.
func (p *Policy) Check(label string) error {
	if label == "" {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(p.o.Filesystem, "context"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("check SELinux label %s: %w", label, err)
	}
	defer f.Close()
	if _, err := f.Write([]byte(label + "\x00")); err != nil {
		return errs.New(errs.InvalidArgument, "linux.security_context.selinux_options: label %q is none of the node's policy: %w", label, err)
	}
	return nil
}
