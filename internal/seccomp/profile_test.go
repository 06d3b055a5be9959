package seccomp

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestProfileFiles(t *testing.T) {
	for _, c := range []struct {
		name, file string
		caps       []string
		calls      []string // allowed
	}{
		{"the OCI form", `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW"}]}`,
			nil, []string{"read", "write"}},
		{"Docker's old form, a name a rule", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":[]}]}`,
			nil, []string{"read"}},
		{"Docker's form, a rule for a capability the container has", `{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64"}],
			"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}`,
			[]string{"CAP_SYS_ADMIN"}, []string{"read", "mount"}},
		{"Docker's form, a rule for a capability the container lacks", `{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64"}],
			"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}`,
			nil, []string{"read"}},
		{"Docker's form, a rule for newer kernels than any", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"200.0"}}]}`,
			nil, nil},
		{"a file that is written out again", `{"defaultAction":"SCMP_ACT_LOG"}`, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := ParseProfile([]byte(c.file), c.caps...)
			if err != nil {
				t.Fatal(err)
			}
			var calls []string
			for _, s := range p.Syscalls {
				calls = append(calls, s.Names...)
			}
			if !slices.Equal(calls, c.calls) {
				t.Errorf("allows %v, want %v", calls, c.calls)
			}
			if _, err := Compile(p); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFilesThatAreNoProfiles(t *testing.T) {
	for name, file := range map[string]string{
		"nothing":                    ``,
		"an empty object":            `{}`,
		"a list":                     `[]`,
		"null":                       `null`,
		"a null rule":                `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[null]}`,
		"no default action":          `{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`,
		"both a name and names":      `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"read","names":["read"],"action":"SCMP_ACT_ALLOW"}]}`,
		"both kinds of architecture": `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}`,
		"a kernel that is none":      `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}]}`,
		"a negative value":           `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":-1,"op":"SCMP_CMP_EQ"}]}]}`,
		"more than a mebibyte":       `{"defaultAction":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		if p, err := ParseProfile([]byte(file)); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestTheDefaultProfileFollowsCapabilities(t *testing.T) {
	allows := func(caps []string, name string) bool {
		p, err := Default(caps)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Syscalls {
			if s.Action == specs.ActAllow && slices.Contains(s.Names, name) {
				return true
			}
		}
		return false
	}
	if allows(nil, "mount") || !allows([]string{"CAP_SYS_ADMIN"}, "mount") {
		t.Error("mount does not follow CAP_SYS_ADMIN")
	}
	// One caller's changes are not another's.
	p, _ := Default(nil)
	p.Syscalls[0].Names[0], p.DefaultAction = "mount", specs.ActAllow
	if allows(nil, "mount") {
		t.Error("profiles share memory")
	}
}

func FuzzProfile(f *testing.F) {
	if p, err := Default(nil); err != nil {
		f.Fatal(err)
	} else if b, err := json.Marshal(p); err != nil {
		f.Fatal(err)
	} else {
		f.Add(b, uint32(41), uint64(40))
	}
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[{"names":["socket"],
		"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}],"includes":{"caps":["CAP_SYS_ADMIN"],"minKernel":"4.8"}}]}`), uint32(41), uint64(40))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_ARM"],"syscalls":[{"names":["socket","semop","cacheflush"],"action":"SCMP_ACT_KILL",
		"args":[{"index":0,"value":1,"op":"SCMP_CMP_LT"},{"index":0,"value":7,"op":"SCMP_CMP_GE"},{"index":5,"value":7,"op":"SCMP_CMP_NE"}]}]}`), uint32(102), uint64(1))
	f.Fuzz(func(t *testing.T, file []byte, nr uint32, arg uint64) {
		p, err := ParseProfile(file, "CAP_SYS_ADMIN")
		if err != nil {
			if !errs.Is(err, errs.InvalidArgument) {
				t.Fatalf("not told from a fault of ours: %v", err)
			}
			return
		}
		for _, machine := range machines {
			filter, err := compile(p, machine)
			if err != nil {
				if !errs.Is(err, errs.InvalidArgument) && !errs.Is(err, errs.Unimplemented) {
					t.Fatalf("not told from a fault of ours: %v", err)
				}
				return
			}
			if err := check(filter.Bytes()); err != nil {
				t.Fatal(err)
			}
			o := newOracle(p, machine)
			for _, a := range audit {
				for index := range 6 {
					for _, nr := range []uint32{nr, nr % 512, 102, 117} {
						e := event{nr: nr, arch: a}
						e.args[index] = arg
						if got, want := run(filter.Bytes(), e), o.verdict(e); got != want {
							t.Fatalf("arch %#x call %d %x: %#x, want %#x", a, nr, e.args, uint32(got), uint32(want))
						}
					}
				}
			}
		}
	})
}

// The generated table is what its generator makes.
func TestTheTableIsUpToDate(t *testing.T) {
	have, err := os.ReadFile("table.go")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary := dir + "/mktable"
	if out, err := exec.Command("go", "build", "-o", binary, here+"/mktable/main.go").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(binary)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	made, err := os.ReadFile(dir + "/table.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(made) != string(have) {
		t.Error("table.go is not what mktable makes: run go generate")
	}
}
