package selinux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"fermata/internal/spec"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestTheLabelsAreThoseOfThePolicyInForce(t *testing.T) {
	etc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(etc, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p := Open(Options{Etc: etc})
	want := func(what, process, file, image string) {
		t.Helper()
		if got, err := p.Containers(); err != nil || got != (spec.SELinux{Process: process, File: file, Image: image}) {
			t.Errorf("%s: %+v %v", what, got, err)
		}
	}
	want("no policy at all", "", "", "")
	write("other/contexts/lxc_contexts", "process = \"o:o:o:s0\"\n")
	write("config", "# SELINUXTYPE=other\nSELINUX=enforcing\n SELINUXTYPE = mine \n")
	want("a policy without labels", "", "", "")
	write("mine/contexts/lxc_contexts", "process = \"u:r:container_t:s0\"\ncontent = \"u:r:virt_var_lib_t:s0\"\nfile = u:r:container_file_t:s0\nro_file=\"u:r:ro_t:s0\"\n")
	want("a policy", "u:r:container_t:s0", "u:r:container_file_t:s0", "u:r:ro_t:s0")
}

func TestTheKernelIsAskedWhetherALabelIsAny(t *testing.T) {
	dir := t.TempDir()
	p := Open(Options{Filesystem: dir})
	if err := p.Check("u:r:t:s0"); err == nil {
		t.Error("a label was found good where nobody could be asked")
	}
	if err := p.Check(""); err != nil {
		t.Errorf("no label: %v", err)
	}
	file := filepath.Join(dir, "context")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Check("u:r:t:s0"); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "u:r:t:s0\x00" {
		t.Errorf("asked %q %v", b, err)
	}
}
