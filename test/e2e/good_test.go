package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/hostile"
	"fermata/internal/testkit/images"
)

// good is a request that would be accepted, with as many members as such a one can have.
func (f *fixtures) good(method protoreflect.MethodDescriptor, g *hostile.Maker) proto.Message {
	f.made++
	container := f.running
	if g.Number(3) == 0 {
		container = f.idle
	}
	switch method.Input().FullName() {
	case "fermata.v1.LoadImageRequest":
		return &fermatav1.LoadImageRequest{Chunk: f.archive}
	case "fermata.v1.ExportImageRequest":
		return &fermatav1.ExportImageRequest{Image: tiny}
	case "fermata.v1.ExecRequest":
		return &fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Start{Start: &fermatav1.ExecStart{ContainerId: f.running, Command: []string{"true"}}}}
	case "fermata.v1.AttachRequest":
		return &fermatav1.AttachRequest{Message: &fermatav1.AttachRequest_Start{Start: &fermatav1.AttachStart{ContainerId: f.running}}}
	case "fermata.v1.PortForwardRequest":
		return &fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Start{Start: &fermatav1.PortForwardStart{PodId: f.pod, Port: 80}}}
	case "runtime.v1.RunPodSandboxRequest":
		return &runtimeapi.RunPodSandboxRequest{Config: f.goodPod(), RuntimeHandler: "native"}
	case "runtime.v1.CreateContainerRequest":
		return &runtimeapi.CreateContainerRequest{PodSandboxId: f.pod, SandboxConfig: proto.Clone(f.config).(*runtimeapi.PodSandboxConfig), Config: f.goodContainer()}
	case "runtime.v1.UpdateContainerResourcesRequest":
		return &runtimeapi.UpdateContainerResourcesRequest{ContainerId: container, Linux: f.goodResources()}
	case "runtime.v1.UpdatePodSandboxResourcesRequest":
		return &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: f.pod, Overhead: f.goodResources(), Resources: f.goodResources()}
	case "runtime.v1.ExecSyncRequest":
		return &runtimeapi.ExecSyncRequest{ContainerId: f.running, Cmd: []string{"true"}, Timeout: 10}
	case "runtime.v1.ExecRequest":
		return &runtimeapi.ExecRequest{ContainerId: f.running, Cmd: []string{"true"}, Stdout: true, Stderr: true, Stdin: true}
	case "runtime.v1.AttachRequest":
		return &runtimeapi.AttachRequest{ContainerId: f.running, Stdout: true, Stderr: true}
	case "runtime.v1.RemoveImageRequest":
		return &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: tiny}}
	case "runtime.v1.StopContainerRequest":
		return &runtimeapi.StopContainerRequest{ContainerId: container, Timeout: 5}
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		panic(err) // a service without its messages
	}
	m := kind.New()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		switch field := fields.Get(i); field.Name() {
		case "pod_sandbox_id":
			m.Set(field, protoreflect.ValueOfString(f.pod))
		case "container_id":
			m.Set(field, protoreflect.ValueOfString(container))
		case "image":
			if field.Message() != nil {
				m.Set(field, protoreflect.ValueOfMessage((&runtimeapi.ImageSpec{Image: images.Busybox}).ProtoReflect()))
			} else {
				m.Set(field, protoreflect.ValueOfString(images.Busybox))
			}
		}
	}
	return m.Interface()
}

func (f *fixtures) goodPod() *runtimeapi.PodSandboxConfig {
	c := cri.PodConfig("bad", filepath.Join(f.scratch, "logs"))
	c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"192.0.2.1"}, Searches: []string{"example.org"}, Options: []string{"ndots:5"}}
	c.Labels, c.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80}}
	c.Linux.CgroupParent = f.Scope().Cgroups[0]
	c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"}
	c.Linux.Overhead, c.Linux.Resources = f.goodResources(), f.goodResources()
	sc := c.Linux.SecurityContext
	sc.RunAsUser, sc.RunAsGroup, sc.SupplementalGroups = &runtimeapi.Int64Value{Value: 1}, &runtimeapi.Int64Value{Value: 2}, []int64{3}
	sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	return c
}

func (f *fixtures) goodResources() *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{
		CpuPeriod: 100_000, CpuQuota: 50_000, CpuShares: 200, MemoryLimitInBytes: 128 << 20, CpusetCpus: "0", CpusetMems: "0",
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}},
	}
}

func (f *fixtures) goodContainer() *runtimeapi.ContainerConfig {
	c := cri.ContainerConfig(fmt.Sprintf("bad%d", f.made), images.Busybox, slices.Clone(command)...)
	c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}}
	c.WorkingDir = "/tmp"
	c.Labels, c.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	c.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/there", HostPath: filepath.Join(f.scratch, "there")},
		{ContainerPath: "/file", HostPath: filepath.Join(f.scratch, "file"), Readonly: true},
		{ContainerPath: "/image", Image: &runtimeapi.ImageSpec{Image: images.Busybox}, Readonly: true, ImageSubPath: "bin"},
	}
	c.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/another", HostPath: "/dev/null", Permissions: "rw"}}
	c.Linux.Resources = f.goodResources()
	sc := c.Linux.SecurityContext
	sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"CHOWN"}}
	sc.RunAsUser, sc.SupplementalGroups = &runtimeapi.Int64Value{Value: 0}, []int64{3}
	sc.MaskedPaths, sc.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	return c
}

// undo takes back what an accepted request has done; every eighth container is started first, to see what only the start finds out.
func (f *fixtures) undo(ctx context.Context, number int, answer proto.Message) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	switch r := answer.(type) {
	case *runtimeapi.RunPodSandboxResponse:
		return f.CRI.RemovePod(ctx, r.GetPodSandboxId())
	case *runtimeapi.CreateContainerResponse:
		if number%8 == 0 {
			start := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services().ByName("RuntimeService").Methods().ByName("StartContainer")
			f.judge(start, number, nil, f.CRI.Start(ctx, r.GetContainerId()))
		}
		_, err := f.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: r.GetContainerId()})
		return err
	case *runtimeapi.StopPodSandboxResponse, *runtimeapi.RemovePodSandboxResponse, *runtimeapi.StopContainerResponse, *runtimeapi.RemoveContainerResponse,
		*runtimeapi.StartContainerResponse, *runtimeapi.UpdateContainerResourcesResponse:
		return f.renew(ctx)
	}
	return nil
}

// tiny is the name of the image that is in the archive of every good LoadImage.
const tiny = "tiny.example.org/x:1"

func tinyArchive() []byte {
	layer := handmade.NewLayer(handmade.Plain, handmade.File("x", "y"))
	img := handmade.New(layer)
	return handmade.Tar(
		handmade.File("manifest.json", `[{"Config":"config","RepoTags":["`+tiny+`"],"Layers":["layer"]}]`),
		handmade.File("config", string(img.ConfigBytes())), handmade.File("layer", string(layer.Blob)))
}

// fewGoroutines fails the test if the daemon has more than an idle one with a few connections: about thirty. It is ended with SIGQUIT, at which it
// writes the stacks of all its goroutines to its log, and is started again.
func (w *world) fewGoroutines(t *testing.T) {
	t.Helper()
	const most = 60
	before, err := os.Stat(w.Log)
	check(t, err)
	check(t, syscall.Kill(w.PID(), syscall.SIGQUIT))
	eventually(t, "the daemon ends", func() (bool, string) { return !w.Running(), "" })
	log, err := os.ReadFile(w.Log)
	check(t, err)
	check(t, w.Restart(t.Context()))
	_, dump, _ := strings.Cut(string(log[before.Size():]), "SIGQUIT")
	// Libraries wait thirty seconds for the second stream of a forwarded connection, also when the client has left, and a second for somebody who wants
	// to know why a connection was closed.
	stacks := slices.DeleteFunc(strings.Split(dump, "\ngoroutine ")[1:], func(stack string) bool {
		return strings.Contains(stack, "monitorStreamPair") || strings.Contains(stack, "spdystream.(*Connection).shutdown")
	})
	kinds := map[string]int{}
	for _, stack := range stacks {
		var functions []string
		for line := range strings.Lines(stack) {
			if at := strings.LastIndexByte(line, '('); at > 0 && !strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "runtime.") {
				functions = append(functions, line[:at])
			}
		}
		kinds[strings.Join(functions, " < ")]++
	}
	t.Logf("%d goroutines in the daemon", len(stacks))
	if len(stacks) > most || len(stacks) == 0 {
		t.Errorf("%d goroutines in the daemon", len(stacks))
		for kind, n := range kinds {
			t.Logf("%d %s", n, kind)
		}
	}
}
