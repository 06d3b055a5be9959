package pod

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

// fakeAppArmor has one profile, and a default that can be made to fail.
type fakeAppArmor struct{ refuse error }

func (f *fakeAppArmor) Has(name string) (bool, error) { return name == "mine", nil }

func (f *fakeAppArmor) Default(context.Context) (string, error) { return "the-default", f.refuse }

func TestWhichAppArmorProfileAContainerGets(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	local := func(name string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
	}
	byDefault := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	unloadable := errs.New(errs.FailedPrecondition, "no parser")
	for _, tt := range []struct {
		name   string
		off    bool
		refuse error
		sc     *sc
		want   string
		kind   errs.Kind // of the refusal, when text is set
		text   string
	}{
		{name: "nothing asked is the default", sc: &sc{}, want: "the-default"},
		{name: "the default asked", sc: &sc{Apparmor: byDefault}, want: "the-default"},
		{name: "the default asked in the old field", sc: &sc{ApparmorProfile: "runtime/default"}, want: "the-default"},
		{name: "unconfined", sc: &sc{Apparmor: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}}},
		{name: "unconfined in the old field", sc: &sc{ApparmorProfile: "unconfined"}},
		{name: "a loaded one of the node's", sc: &sc{Apparmor: local("mine")}, want: "mine"},
		{name: "with the old field's prefix", sc: &sc{Apparmor: local("localhost/mine")}, want: "mine"},
		{name: "in the old field", sc: &sc{ApparmorProfile: "localhost/mine"}, want: "mine"},
		{name: "the new field wins", sc: &sc{ApparmorProfile: "localhost/other", Apparmor: local("mine")}, want: "mine"},
		{name: "one that is not loaded", sc: &sc{Apparmor: local("other")}, kind: errs.FailedPrecondition, text: `"other" is not loaded`},
		{name: "nothing asked where the default cannot be loaded", refuse: unloadable, sc: &sc{}},
		{name: "the default asked where it cannot be loaded", refuse: unloadable, sc: &sc{Apparmor: byDefault}, kind: errs.FailedPrecondition, text: "no parser"},
		{name: "nothing asked where AppArmor is off", off: true, sc: &sc{}},
		{name: "the default asked where AppArmor is off", off: true, sc: &sc{Apparmor: byDefault}},
		{name: "one of the node's where AppArmor is off", off: true, sc: &sc{Apparmor: local("mine")}, kind: errs.InvalidArgument, text: "AppArmor is off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.Manager.Facts.AppArmor, n.Manager.AppArmor = !tt.off, &fakeAppArmor{tt.refuse}
			pod := sandboxRequest("a")
			podID := must[string](t)(n.RunPodSandbox(t.Context(), pod))
			req := containerRequest(podID, pod, "c")
			req.Config.Linux.SecurityContext = tt.sc
			id, err := n.CreateContainer(t.Context(), req)
			if tt.text != "" {
				if !errs.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%v, want %v with %q", err, tt.kind, tt.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s, err := n.records.ReadSpec(podID, id); err != nil || s.Process.ApparmorProfile != tt.want {
				t.Errorf("profile %q %v, want %q", s.Process.ApparmorProfile, err, tt.want)
			}
		})
	}
}

// fakeSELinux knows every label but those with "wrong" in them.
type fakeSELinux struct{}

func (fakeSELinux) Check(label string) error {
	if strings.Contains(label, "wrong") {
		return errs.New(errs.InvalidArgument, "label %q", label)
	}
	return nil
}

func newLabelledNode(t *testing.T) *node {
	n := newNode(t)
	n.options.Facts.SELinux = &spec.SELinux{Process: "u:r:container_t:s0", File: "u:r:container_file_t:s0"}
	n.options.SELinux = fakeSELinux{}
	n.restart(t.Context())
	return n
}

func TestPodsHaveSELinuxLevelsOfTheirOwn(t *testing.T) {
	n := newLabelledNode(t)
	labels := map[string]string{}
	for _, name := range []string{"a", "b", "c", "asks"} {
		pod := sandboxRequest(name)
		if name == "asks" {
			pod.Config.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{SelinuxOptions: &runtimeapi.SELinuxOption{Level: "s0:c1,c2"}}
		}
		podID := must[string](t)(n.RunPodSandbox(t.Context(), pod))
		if name == "b" { // a level is the pod's for life
			n.restart(t.Context())
		}
		for _, ctr := range []string{"one", "two"} {
			id := must[string](t)(n.CreateContainer(t.Context(), containerRequest(podID, pod, ctr)))
			s, err := n.records.ReadSpec(podID, id)
			if err != nil {
				t.Fatal(err)
			}
			level, own := strings.CutPrefix(s.Process.SelinuxLabel, "u:r:container_t:")
			if !own || s.Linux.MountLabel != "u:r:container_file_t:"+level || strings.Count(level, ",") != 1 {
				t.Errorf("pod %s: process %q, mounts %q", name, s.Process.SelinuxLabel, s.Linux.MountLabel)
			}
			if of, ok := labels[level]; ok && of != name {
				t.Errorf("pods %s and %s have level %s", of, name, level)
			}
			labels[level] = name
		}
	}
	if len(labels) != 4 || labels["s0:c1,c2"] != "asks" {
		t.Errorf("levels of pods: %v, want one each", labels)
	}
}

func TestALabelThatThePolicyDoesNotKnowIsRefused(t *testing.T) {
	n := newLabelledNode(t)
	pod := sandboxRequest("a")
	pod.Config.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}
	podID := must[string](t)(n.RunPodSandbox(t.Context(), pod))
	for _, privileged := range []bool{false, true} { // who would not get it is told all the same
		req := containerRequest(podID, pod, "c")
		req.Config.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "wrong_t"}
		req.Config.Linux.SecurityContext.Privileged = privileged
		if _, err := n.CreateContainer(t.Context(), req); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("privileged %v: %v", privileged, err)
		}
	}
	bad := sandboxRequest("bad")
	bad.Config.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{SelinuxOptions: &runtimeapi.SELinuxOption{Type: "wrong_t"}}
	if _, err := n.RunPodSandbox(t.Context(), bad); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a pod: %v", err)
	}
}

func TestWhatIsRelabelled(t *testing.T) {
	n := newLabelledNode(t)
	n.images.volumes = []string{"/data"}
	pod := sandboxRequest("a")
	podID := must[string](t)(n.RunPodSandbox(t.Context(), pod))
	req := containerRequest(podID, pod, "c")
	req.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/asks/", HostPath: t.TempDir(), SelinuxRelabel: true}, {ContainerPath: "/silent", HostPath: t.TempDir()},
	}
	id := must[string](t)(n.CreateContainer(t.Context(), req))
	c, err := n.findContainer(id)
	if err != nil {
		t.Fatal(err)
	}
	r := c.snapshot()
	s, err := n.records.ReadSpec(podID, id)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Mounts { // CVE-2021-43816: a file of the host's in the place of one of ours
		if s.Mounts[i].Destination == "/etc/hosts" {
			s.Mounts[i].Source = "/etc/hosts"
		}
	}
	got := slices.Sorted(maps.Keys(n.relabelled(&r, s)))
	if want := "/asks /data /etc/hostname /etc/resolv.conf"; strings.Join(got, " ") != want {
		t.Errorf("relabelled %v, want %s", got, want)
	}
	s.Linux.MountLabel = ""
	if got := n.relabelled(&r, s); len(got) != 0 {
		t.Errorf("without SELinux relabelled %v", got)
	}
}
