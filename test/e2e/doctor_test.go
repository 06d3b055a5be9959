package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
)

// nobody is an ID that belongs to nothing.
var nobody = strings.Repeat("ab", 32)

// Each kind of damage is planted on a node with a running pod; doctor finds it, mends it, finds nothing any more, and the pod goes on.
func TestDoctorFindsAndMendsWhatIsPlanted(t *testing.T) {
	n := start(t)
	if n.Kind != "fermata" {
		t.Skip("containerd has no doctor")
	}
	p, _ := pod(t, n, "well")
	id := p.run(t, shell("main", "exec sleep 1000"))
	n.healthy(t)
	scope := n.Scope()
	root, state := filepath.Join(n.Dir, "r"), filepath.Join(n.Dir, "s")
	bridge, links := scope.Links[1], scope.Links[0]
	for _, d := range []struct {
		name  string
		plant func(t *testing.T)
		says  []string // all of it
		// after is what a person does where doctor only tells; nil where it mends
		after func(t *testing.T)
	}{
		{"a cgroup with a process of nobody's", func(t *testing.T) { n.strayCgroup(t, scope.Cgroups[0]+"/"+nobody) },
			[]string{"cgroup " + scope.Cgroups[0] + "/" + nobody, "belongs to no pod or container"}, nil},
		{"a pod's directory without a record", func(t *testing.T) {
			check(t, os.MkdirAll(filepath.Join(root, "pods", nobody, "containers", nobody, "upper"), 0o700))
		}, []string{"pods/" + nobody, "belongs to no pod"}, nil},
		{"a container's directory without a record", func(t *testing.T) {
			check(t, os.MkdirAll(filepath.Join(root, "pods", p.id, "containers", nobody, "upper"), 0o700))
		}, []string{"containers/" + nobody, "belongs to no pod or container"}, nil},
		{"a pod's files in memory without a record", func(t *testing.T) { check(t, os.Mkdir(filepath.Join(state, "pods", nobody), 0o700)) },
			[]string{"s/pods/" + nobody, "belongs to no pod"}, nil},
		{"a record that was set aside", func(t *testing.T) {
			check(t, os.Mkdir(filepath.Join(root, "pods", nobody), 0o700))
			check(t, os.WriteFile(filepath.Join(root, "pods", nobody, "pod.json.broken-1"), []byte("{"), 0o600))
		}, []string{"pod.json.broken-1", "set aside", "look at it"}, func(t *testing.T) { check(t, os.RemoveAll(filepath.Join(root, "pods", nobody))) }},
		{"a FIFO of no process", func(t *testing.T) { check(t, syscall.Mkfifo(filepath.Join(state, "fifo", nobody+".stdout"), 0o600)) },
			[]string{"fifo/" + nobody + ".stdout", "FIFO of no process"}, nil},
		{"a mount in a pod's directory", func(t *testing.T) {
			check(t, syscall.Mount("none", filepath.Join(root, "pods", p.id, "containers"), "tmpfs", 0, ""))
		}, []string{"is a mount (tmpfs)"}, nil},
		{"a link of no pod", func(t *testing.T) {
			run(t, "ip", "link", "add", links+"aaaaaaaaa", "type", "veth", "peer", "name", links+"peer")
		},
			[]string{"link " + links + "aaaaaaaaa", "belongs to no sandbox"}, nil},
		{"the bridge taken down", func(t *testing.T) { run(t, "ip", "link", "set", bridge, "down") }, []string{"bridge " + bridge, "gone or down"}, nil},
		{"a live pod's link taken from the bridge", func(t *testing.T) { run(t, "ip", "link", "set", n.portOf(t, bridge), "nomaster") },
			[]string{"is no port of bridge " + bridge}, nil},
		{"the nft table deleted", func(t *testing.T) { deleteTable(t, scope.Tables[0]) }, []string{scope.Tables[0], "is gone"}, nil},
		{"a layer of no image", func(t *testing.T) { check(t, os.MkdirAll(filepath.Join(root, "images/layers", nobody, "fs"), 0o700)) },
			[]string{"layer " + nobody, "belongs to no image"}, nil},
		{"an image's layer lost", func(t *testing.T) { n.moveLayers(t, "layers", "lost") }, []string{"image registry.k8s.io/", "is not on the disk", "pull it again"},
			func(t *testing.T) { n.moveLayers(t, "lost", "layers") }},
	} {
		t.Run(d.name, func(t *testing.T) {
			d.plant(t)
			said, err := n.Doctor(t.Context())
			if err == nil {
				t.Errorf("doctor finds nothing: %s", said)
			}
			for _, want := range d.says {
				if !strings.Contains(said, want) {
					t.Errorf("doctor does not say %q:\n%s", want, said)
				}
			}
			said, err = n.Doctor(t.Context(), "--repair")
			if (err == nil) != (d.after == nil) {
				t.Errorf("doctor --repair: %v\n%s", err, said)
			}
			if d.after != nil {
				d.after(t)
			}
			n.healthy(t)
			if _, err := n.CRI.Exec(t.Context(), id, "true"); err != nil {
				t.Errorf("the pod that was well: %v", err)
			}
		})
	}
}

// healthy asks doctor, who has nothing to say.
func (w *world) healthy(t *testing.T) {
	t.Helper()
	if said, err := w.Doctor(t.Context()); err != nil {
		t.Fatalf("doctor: %v\n%s", err, said)
	}
}

// strayCgroup makes a cgroup in every hierarchy, with a process in it.
func (w *world) strayCgroup(t *testing.T, path string) {
	t.Helper()
	sleep := exec.Command("sleep", "1000")
	check(t, sleep.Start())
	t.Cleanup(func() { sleep.Process.Kill(); sleep.Wait() })
	parents, err := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(filepath.Dir(path)))
	check(t, err)
	if len(parents) == 0 { // v2 alone
		parents = []string{"/sys/fs/cgroup/" + filepath.Base(filepath.Dir(path))}
	}
	for _, parent := range parents {
		group := filepath.Join(parent, nobody)
		check(t, os.Mkdir(group, 0o755))
		t.Cleanup(func() {
			if err := os.Remove(group); err == nil {
				t.Errorf("%s was left", group)
			}
		})
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty ones take no process on v1
			if v, err := os.ReadFile(filepath.Join(parent, file)); err == nil && strings.Contains(group, "cpuset") {
				check(t, os.WriteFile(filepath.Join(group, file), v, 0o644))
			}
		}
		check(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), fmt.Append(nil, sleep.Process.Pid), 0o644))
	}
}

// portOf is the name of a link in a bridge.
func (w *world) portOf(t *testing.T, bridge string) string {
	t.Helper()
	all, err := net.Interfaces()
	check(t, err)
	for _, i := range all {
		if master, _ := os.Readlink("/sys/class/net/" + i.Name + "/master"); filepath.Base(master) == bridge {
			return i.Name
		}
	}
	t.Fatalf("bridge %s has no port", bridge)
	return ""
}

// moveLayers renames the layers' directories between two folders of the image store, as a person's mistake would.
func (w *world) moveLayers(t *testing.T, from, to string) {
	t.Helper()
	images := filepath.Join(w.Dir, "r/images")
	check(t, os.MkdirAll(filepath.Join(images, to), 0o700))
	entries, err := os.ReadDir(filepath.Join(images, from))
	check(t, err)
	for _, e := range entries {
		check(t, os.Rename(filepath.Join(images, from, e.Name()), filepath.Join(images, to, e.Name())))
	}
	if from == "lost" {
		check(t, os.Remove(filepath.Join(images, "lost")))
	}
}

func deleteTable(t *testing.T, name string) {
	t.Helper()
	conn, err := nftables.New()
	check(t, err)
	conn.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	check(t, conn.Flush())
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
