package cli

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares what a command shows with testdata/NAME.golden; `make golden` rewrites them.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("shown:\n%s\nwant (%s):\n%s", got, file, want)
	}
}

// explained is two pods as the daemon explains them: web has two containers and its own network, agent the host's.
func explained(f *fake) {
	f.addPod("default", "web", "aaaa1111", "server", "client")
	f.addPod("kube-system", "agent", "bbbb2222", "main")
	process := func(pid int32, name string, role fermatav1.Process_Role, pod, container string) *fermatav1.Process {
		return &fermatav1.Process{Pid: pid, Parent: 50, Name: name, Role: role, PodId: pod, ContainerId: container}
	}
	const pause, first, other = fermatav1.Process_PAUSE, fermatav1.Process_FIRST, fermatav1.Process_OTHER
	webPause := process(100, "fermata-pause", pause, "aaaa1111", "")
	server := process(101, "nginx", first, "aaaa1111", "c0-aaaa1111")
	workers := []*fermatav1.Process{
		process(103, "nginx", other, "aaaa1111", "c0-aaaa1111"), process(104, "nginx", other, "aaaa1111", "c0-aaaa1111"), process(105, "sh", other, "aaaa1111", "c0-aaaa1111"),
	}
	client := process(102, "sleep", first, "aaaa1111", "c1-aaaa1111")
	agent := process(201, "agent", first, "bbbb2222", "c0-bbbb2222")
	keeper := &fermatav1.NamespaceHolder{Holder: &fermatav1.NamespaceHolder_Keeper{Keeper: &fermatav1.NamespaceHolder_Descriptor{Pid: 50, Number: 17}}}
	paused := &fermatav1.NamespaceHolder{Holder: &fermatav1.NamespaceHolder_Pause{Pause: 100}}
	bind := &fermatav1.NamespaceHolder{Holder: &fermatav1.NamespaceHolder_Bind{Bind: "/run/netns/fermata-aaaa1111"}}
	f.namespaces = []*fermatav1.Namespace{
		{Kind: "net", Inode: 4026532281, PodId: "aaaa1111", Processes: append([]*fermatav1.Process{webPause, server, client}, workers...), Holders: []*fermatav1.NamespaceHolder{paused, keeper, bind}},
		{Kind: "pid", Inode: 4026532290, PodId: "aaaa1111", ContainerId: "c0-aaaa1111", Processes: append([]*fermatav1.Process{server}, workers...)},
		{Kind: "pid", Inode: 4026532291, PodId: "aaaa1111", ContainerId: "c1-aaaa1111", Processes: []*fermatav1.Process{client}},
		{Kind: "ipc", Inode: 4026532300, Processes: []*fermatav1.Process{client, agent}},
		{Kind: "net", Inode: 4026531840, Host: true, Processes: []*fermatav1.Process{agent}},
		{Kind: "pid", Inode: 4026531836, Host: true, Processes: []*fermatav1.Process{webPause, agent}},
	}
}

func TestNamespacesAreShown(t *testing.T) {
	f, address := serve(t)
	explained(f)
	all := f.namespaces
	stranger := &fermatav1.Process{Pid: 900, Name: "tcpdump"}
	for _, c := range []struct {
		name, golden string
		args         []string
		answer       []*fermatav1.Namespace
		asked        *fermatav1.ListNamespacesRequest
	}{
		{"all", "ns-all", nil, all, &fermatav1.ListNamespacesRequest{}},
		{"all, with every process", "ns-wide", []string{"-o", "wide"}, all, &fermatav1.ListNamespacesRequest{}},
		{"a pod's", "ns-pod", []string{"web"}, all, &fermatav1.ListNamespacesRequest{PodId: "aaaa1111"}},
		{"one by its number", "ns-number", []string{"4026532281"}, all[:1], &fermatav1.ListNamespacesRequest{Inode: 4026532281}},
		{"one of a container", "ns-container", []string{"4026532290"}, all[1:2], &fermatav1.ListNamespacesRequest{Inode: 4026532290}},
		{"one that only the keeper holds", "ns-held", []string{"4026532281"},
			[]*fermatav1.Namespace{{Kind: "net", Inode: 4026532281, Holders: all[0].Holders[1:2]}}, &fermatav1.ListNamespacesRequest{Inode: 4026532281}},
		{"the host's", "ns-host", []string{"4026531840"},
			[]*fermatav1.Namespace{{Kind: "net", Inode: 4026531840, Host: true, Processes: append(all[4].Processes, stranger)}}, &fermatav1.ListNamespacesRequest{Inode: 4026531840}},
		{"those of a process", "ns-pid", []string{"--pid", "103"}, all[:2], &fermatav1.ListNamespacesRequest{Pid: 103}},
		{"those of a container's first process", "ns-first", []string{"--pid", "102"}, all[2:3], &fermatav1.ListNamespacesRequest{Pid: 102}},
		{"those of a pause", "ns-pause", []string{"--pid", "100"}, all[:1], &fermatav1.ListNamespacesRequest{Pid: 100}},
		{"those of a stranger", "ns-stranger", []string{"--pid", "900"},
			[]*fermatav1.Namespace{{Kind: "net", Inode: 4026532281, PodId: "", Processes: append(all[0].Processes[:1:1], stranger)}}, &fermatav1.ListNamespacesRequest{Pid: 900}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.namespaces = c.answer
			got := do(t, address, "", append([]string{"ns"}, c.args...)...)
			if got.code != 0 || got.errOut != "" {
				t.Fatalf("%+v", got)
			}
			golden(t, c.golden, got.out)
			if asked := f.askedNamespaces; asked.PodId != c.asked.PodId || asked.Inode != c.asked.Inode || asked.Pid != c.asked.Pid {
				t.Errorf("asked for %v, want %v", asked, c.asked)
			}
		})
	}
}

func TestNamespacesAreToldApart(t *testing.T) {
	in := func(namespaces ...string) (all []member) {
		for _, n := range namespaces {
			all = append(all, member{Namespaces: map[string]string{"net": n}})
		}
		return all
	}
	for _, c := range []struct {
		name    string
		members []member
		want    string
	}{
		{"all in the host's", in("1", "1"), "the host's"},
		{"one alone", in("2"), "its own"},
		{"all in one of their own", in("2", "2"), "the pod's, shared"},
		{"each in another", in("2", "3", "4"), "each its own"},
		{"each in another, one in the host's", in("2", "3", "1"), "each its own, or the host's"},
		{"two together and one alone", in("2", "2", "3"), "some shared"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := whose("net", c.members, "1"); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestTheTreeIsDrawn(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server", "client")
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixNano() }
	process := func(pid, parent int32, name string) *fermatav1.Process {
		return &fermatav1.Process{Pid: pid, Parent: parent, Name: name, Memory: uint64(pid) * 10_000}
	}
	web := &fermatav1.TreePod{
		Id: "aaaa1111", Namespace: "default", Name: "web", Ready: true, Ips: []string{"10.88.0.5", "fd00::5"}, Cgroup: "/fermata/aaaa1111", CreatedAt: ago(3 * time.Hour),
		Pause: process(100, 50, "fermata-pause"), Containers: []*fermatav1.TreeContainer{
			{Name: "setup", Image: "busybox:1", State: "exited", ExitCode: 1, Reason: "Error", CreatedAt: ago(3 * time.Hour), FinishedAt: ago(150 * time.Minute)},
			{Name: "server", Image: "nginx:1.29", State: "running", Memory: 12_345_678, Cgroup: "/fermata/c0", CreatedAt: ago(3 * time.Hour), StartedAt: ago(2 * time.Hour),
				Processes: []*fermatav1.Process{process(101, 50, "nginx"), process(103, 101, "nginx"), process(104, 101, "nginx"), process(110, 50, "sh"), process(111, 110, "ls")}},
			{Name: "later", Image: "busybox:1", State: "created", CreatedAt: ago(30 * time.Minute)},
		},
	}
	agent := &fermatav1.TreePod{Id: "bbbb2222", Namespace: "kube-system", Name: "agent", Reason: "PauseEnded", CreatedAt: ago(49 * time.Hour), Strays: []*fermatav1.Process{process(300, 1, "stray")}}
	for _, c := range []struct {
		golden string
		pods   []*fermatav1.TreePod
		args   []string
	}{
		{"tree", []*fermatav1.TreePod{web, agent}, nil},
		{"tree-wide", []*fermatav1.TreePod{web, agent}, []string{"-o", "wide"}},
		{"tree-pod", []*fermatav1.TreePod{agent, web}, []string{"web"}},
		{"tree-none", nil, nil},
	} {
		t.Run(c.golden, func(t *testing.T) {
			f.tree = &fermatav1.TreeResponse{Node: "node-1", Pods: c.pods}
			got := do(t, address, "", append([]string{"tree"}, c.args...)...)
			if got.code != 0 || got.errOut != "" {
				t.Fatalf("%+v", got)
			}
			golden(t, c.golden, got.out)
		})
	}
}

func chosenBy(args []string) (string, error) {
	flags, kinds := pflag.NewFlagSet("enter", pflag.ContinueOnError), enterKinds{}
	for _, kind := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		kinds.add(flags, kind)
	}
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	all, err := kinds.chosen()
	return strings.Join(all, " "), err
}

func TestEnterChoosesNamespaces(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"the network's alone, without flags", nil, "net"},
		{"one", []string{"--uts"}, "uts"},
		{"several", []string{"--pid", "--net"}, "net pid"},
		{"several in one", []string{"--net=uts,pid"}, "net uts pid"},
		{"one that is none", []string{"--net=utss"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chosenBy(c.args)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("%q (%v), want %q", got, err, c.want)
			}
		})
	}
}
