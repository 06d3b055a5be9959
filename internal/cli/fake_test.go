package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
)

// fake is a CRI server that keeps pods and containers in memory and writes down what it was asked. Its containers run for ever,
// except those whose image says how they end: "ends:<code>".
type fake struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	mu         sync.Mutex
	calls      []string
	pods       []*runtimeapi.PodSandbox
	configs    map[string]*runtimeapi.PodSandboxConfig
	containers []*runtimeapi.Container
	asked      map[string]*runtimeapi.ContainerConfig
	images     map[string]*runtimeapi.Image
	fail       map[string]error // by RPC name
	loaded     bytes.Buffer
	archive    string // what ExportImage sends
	attach     *fermatav1.Attached
	stopped    bool   // pods are not ready
	begun      func() // a command that hangs
	// namespaces and tree are what the daemon has found; asked is the last question.
	namespaces      []*fermatav1.Namespace
	askedNamespaces *fermatav1.ListNamespacesRequest
	tree            *fermatav1.TreeResponse
	changes         []*fermatav1.Change
	history         []*fermatav1.ImageStep
	// events are told, then the stream ends as a daemon's does; begun, if set, is called before the last of them.
	events []*runtimeapi.ContainerEventResponse
	// hold keeps the stream open.
	hold bool
}

// serve starts a fake on a socket of its own and returns it with the address.
func serve(t *testing.T) (*fake, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") // t.TempDir's can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{
		configs: map[string]*runtimeapi.PodSandboxConfig{}, asked: map[string]*runtimeapi.ContainerConfig{},
		images: map[string]*runtimeapi.Image{}, fail: map[string]error{},
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(f.note), grpc.StreamInterceptor(f.noteStream))
	runtimeapi.RegisterRuntimeServiceServer(server, f)
	runtimeapi.RegisterImageServiceServer(server, f)
	fermatav1.RegisterFermataServer(server, &fakeFermata{f: f})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return f, "unix://" + filepath.Join(dir, "s")
}

func (f *fake) note(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := f.write(filepath.Base(info.FullMethod)); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (f *fake) noteStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := f.write(filepath.Base(info.FullMethod)); err != nil {
		return err
	}
	return handler(server, stream)
}

func (f *fake) write(rpc string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, rpc)
	return f.fail[rpc]
}

// count returns how often an RPC was called.
func (f *fake) count(rpc string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == rpc {
			n++
		}
	}
	return n
}

func (f *fake) addImage(ref, id string) {
	f.images[ref] = &runtimeapi.Image{
		Id: id, RepoTags: []string{ref}, Size: 1234567, Spec: &runtimeapi.ImageSpec{Image: id}, Uid: &runtimeapi.Int64Value{},
	}
}

// addPod puts a pod and running containers in, as if another client had made them.
func (f *fake) addPod(namespace, name, id string, containers ...string) {
	f.pods = append(f.pods, &runtimeapi.PodSandbox{
		Id: id, Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: "uid-" + id},
		CreatedAt: time.Now().Add(-time.Hour).UnixNano(),
	})
	for i, c := range containers {
		f.containers = append(f.containers, &runtimeapi.Container{
			Id: fmt.Sprintf("c%d-%s", i, id), PodSandboxId: id, Metadata: &runtimeapi.ContainerMetadata{Name: c},
			Image: &runtimeapi.ImageSpec{Image: "sha256:0123456789abcdef", UserSpecifiedImage: "registry.example.com/" + c + ":1"},
			State: runtimeapi.ContainerState_CONTAINER_RUNNING, CreatedAt: time.Now().Add(-90*time.Second).UnixNano() + int64(i),
		})
	}
}

func (f *fake) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "9.9", RuntimeApiVersion: "v1"}, nil
}

func (f *fake) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: "RuntimeReady", Status: true},
			{Type: "NetworkReady", Reason: "BridgeMissing", Message: "bridge fermata0 is gone"},
		}},
		Info: map[string]string{"config": `{"sandboxImage":"x"}`, "note": "plain text"},
	}, nil
}

func (f *fake) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &runtimeapi.ListPodSandboxResponse{Items: append([]*runtimeapi.PodSandbox(nil), f.pods...)}, nil
}

func (f *fake) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &runtimeapi.ListContainersResponse{Containers: append([]*runtimeapi.Container(nil), f.containers...)}, nil
}

func (f *fake) RunPodSandbox(_ context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := fmt.Sprintf("pod%d", len(f.pods))
	f.configs[id] = r.Config
	f.pods = append(f.pods, &runtimeapi.PodSandbox{
		Id: id, Metadata: r.Config.Metadata, Annotations: r.Config.Annotations, Labels: r.Config.Labels, CreatedAt: time.Now().UnixNano(),
	})
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, os.MkdirAll(r.Config.LogDirectory, 0o755)
}

func (f *fake) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := runtimeapi.PodSandboxState_SANDBOX_READY
	if f.stopped {
		state = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	return &runtimeapi.PodSandboxStatusResponse{
		Status: &runtimeapi.PodSandboxStatus{
			State: state, Id: r.PodSandboxId, Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.88.0.2", AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::2"}}},
		},
		Info: map[string]string{"info": fmt.Sprintf(`{"pid": %d}`, os.Getpid())},
	}, nil
}

func (f *fake) StopPodSandbox(_ context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if p.Id == r.PodSandboxId {
			p.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		}
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (f *fake) RemovePodSandbox(_ context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var pods []*runtimeapi.PodSandbox
	for _, p := range f.pods {
		if p.Id != r.PodSandboxId {
			pods = append(pods, p)
		}
	}
	f.pods = pods
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (f *fake) CreateContainer(_ context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := fmt.Sprintf("ctr%d", len(f.containers))
	f.asked[id] = r.Config
	f.containers = append(f.containers, &runtimeapi.Container{
		Id: id, PodSandboxId: r.PodSandboxId, Metadata: r.Config.Metadata, Image: r.Config.Image, Labels: r.Config.Labels,
		Annotations: r.Config.Annotations, CreatedAt: time.Now().UnixNano(),
	})
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (f *fake) container(id string) *runtimeapi.Container {
	for _, c := range f.containers {
		if c.Id == id {
			return c
		}
	}
	return nil
}

func (f *fake) StartContainer(_ context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.container(r.ContainerId)
	c.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	if strings.HasPrefix(c.Image.Image, "ends:") {
		c.State = runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

func (f *fake) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.container(r.ContainerId)
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "container %q: there is none", r.ContainerId)
	}
	answer := &runtimeapi.ContainerStatus{Id: c.Id, Metadata: c.Metadata, State: c.State}
	if code, ok := strings.CutPrefix(c.GetImage().GetImage(), "ends:"); ok {
		fmt.Sscan(code, &answer.ExitCode)
		answer.Reason = "Error"
	}
	if config := f.asked[c.Id]; config != nil {
		answer.LogPath = filepath.Join(f.configs[c.PodSandboxId].LogDirectory, config.LogPath)
	}
	return &runtimeapi.ContainerStatusResponse{Status: answer, Info: map[string]string{"info": fmt.Sprintf(`{"pid": %d}`, os.Getpid())}}, nil
}

func (f *fake) StopContainer(_ context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.container(r.ContainerId).State = runtimeapi.ContainerState_CONTAINER_EXITED
	f.calls = append(f.calls, fmt.Sprintf("grace %d", r.Timeout))
	return &runtimeapi.StopContainerResponse{}, nil
}

func (f *fake) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (f *fake) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &runtimeapi.ListImagesResponse{}
	for _, image := range f.images {
		answer.Images = append(answer.Images, image)
	}
	return answer, nil
}

func (f *fake) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ref, image := range f.images {
		if ref == r.Image.Image || image.Id == r.Image.Image {
			return &runtimeapi.ImageStatusResponse{Image: image}, nil
		}
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (f *fake) PullImage(_ context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if user := r.GetAuth().GetUsername(); user != "" {
		f.calls = append(f.calls, "auth "+user+" "+r.Auth.Password)
	}
	f.addImage(r.Image.Image, "sha256:pulled")
	return &runtimeapi.PullImageResponse{ImageRef: "sha256:pulled"}, nil
}

func (f *fake) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.images, r.Image.Image)
	return &runtimeapi.RemoveImageResponse{}, nil
}

// fakeFermata is the other service; its Version would clash with CRI's.
type fakeFermata struct {
	fermatav1.UnimplementedFermataServer
	f *fake
}

// PullImage is CRI's, told in parts; a name that begins with "blind/" is one that only CRI's PullImage knows, as another runtime's would be.
func (s *fakeFermata) PullImage(r *fermatav1.PullImageRequest, stream fermatav1.Fermata_PullImageServer) error {
	if strings.HasPrefix(r.Image, "blind/") {
		return status.Error(codes.Unimplemented, "PullImage")
	}
	var auth *runtimeapi.AuthConfig
	if r.Username != "" {
		auth = &runtimeapi.AuthConfig{Username: r.Username, Password: r.Password}
	}
	for _, m := range []*fermatav1.PullImageResponse{{}, {Bytes: 1 << 20, Total: 4 << 20, Layers: 1, LayersTotal: 3}} {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	answer, err := s.f.PullImage(stream.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: r.Image}, Auth: auth})
	if err != nil {
		return err
	}
	return stream.Send(&fermatav1.PullImageResponse{Id: answer.ImageRef})
}

func (s *fakeFermata) LoadImage(stream fermatav1.Fermata_LoadImageServer) error {
	name := ""
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&fermatav1.LoadImageResponse{References: []string{name}, Ids: []string{"sha256:0123456789abcdef"}})
		}
		if err != nil {
			return err
		}
		if message.Name != "" {
			if name != "" {
				return status.Error(codes.InvalidArgument, "the name came twice")
			}
			name = message.Name
		}
		if strings.HasPrefix(string(message.Chunk), "not an archive") {
			return status.Error(codes.InvalidArgument, "read archive: not a tar")
		}
		s.f.loaded.Write(message.Chunk)
	}
}

func (s *fakeFermata) ExportImage(r *fermatav1.ExportImageRequest, stream fermatav1.Fermata_ExportImageServer) error {
	for _, piece := range strings.SplitAfter(s.f.archive, "|") {
		if err := stream.Send(&fermatav1.ExportImageResponse{Chunk: []byte(piece)}); err != nil {
			return err
		}
	}
	return s.f.fail["end of ExportImage"]
}

// Exec does what its command's first word says: "say" tells what it was asked, "cat" gives its input back, "hang" waits for its client
// to leave.
func (s *fakeFermata) Exec(stream fermatav1.Fermata_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	out := func(text string) error {
		return stream.Send(&fermatav1.ExecResponse{Message: &fermatav1.ExecResponse_Stdout{Stdout: []byte(text)}})
	}
	code := int32(7)
	switch start.Command[0] {
	case "hang":
		if s.f.begun != nil {
			s.f.begun()
		}
		<-stream.Context().Done()
		return status.FromContextError(stream.Context().Err()).Err()
	case "cat":
		var got strings.Builder
		for end := false; !end; {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			got.Write(m.GetInput().GetData())
			end = m.GetInput().GetEnd()
		}
		err, code = out(got.String()), 0
	default:
		err = errors.Join(
			out(fmt.Sprintf("%s %q stdin %v tty %v\n", start.ContainerId, start.Command, start.Stdin, start.Tty)),
			stream.Send(&fermatav1.ExecResponse{Message: &fermatav1.ExecResponse_Stderr{Stderr: []byte("warned\n")}}))
	}
	if err != nil {
		return err
	}
	return stream.Send(&fermatav1.ExecResponse{Message: &fermatav1.ExecResponse_ExitCode{ExitCode: code}})
}

// Attach gives the container's input back until it ends; what there is of a container is the test's.
func (s *fakeFermata) Attach(stream fermatav1.Fermata_AttachServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	has := &fermatav1.Attached{Tty: s.f.attach.Tty, Stdin: s.f.attach.Stdin && first.GetStart().Stdin}
	if err := stream.Send(&fermatav1.AttachResponse{Message: &fermatav1.AttachResponse_Attached{Attached: has}}); err != nil {
		return err
	}
	if !has.Stdin {
		return stream.Send(&fermatav1.AttachResponse{Message: &fermatav1.AttachResponse_Stderr{Stderr: []byte("only watched\n")}})
	}
	for {
		m, err := stream.Recv()
		if err != nil || m.GetInput().GetEnd() {
			return err
		}
		back := &fermatav1.AttachResponse{Message: &fermatav1.AttachResponse_Stdout{Stdout: m.GetInput().GetData()}}
		if err := stream.Send(back); err != nil {
			return err
		}
	}
}

// PortForward gives a connection's bytes back; nobody listens at port 9, and at port 10 the pod has ended.
func (s *fakeFermata) PortForward(stream fermatav1.Fermata_PortForwardServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	switch first.GetStart().Port {
	case 9:
		return status.Error(codes.FailedPrecondition, "forward to port 9: connection refused")
	case 10:
		s.f.mu.Lock()
		s.f.stopped = true
		s.f.mu.Unlock()
		return status.Error(codes.FailedPrecondition, "find pod sandbox web: it is not ready")
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		back := &fermatav1.PortForwardResponse{Message: &fermatav1.PortForwardResponse_Data{Data: m.GetData()}}
		if m.GetEnd() {
			back.Message = &fermatav1.PortForwardResponse_End{End: true}
		}
		if err := stream.Send(back); err != nil || m.GetEnd() {
			return err
		}
	}
}

func (s *fakeFermata) ListNamespaces(_ context.Context, r *fermatav1.ListNamespacesRequest) (*fermatav1.ListNamespacesResponse, error) {
	s.f.askedNamespaces = r
	return &fermatav1.ListNamespacesResponse{Namespaces: s.f.namespaces}, nil
}

func (s *fakeFermata) Tree(context.Context, *fermatav1.TreeRequest) (*fermatav1.TreeResponse, error) {
	return s.f.tree, nil
}

// Diff sends a change a message.
func (s *fakeFermata) Diff(_ *fermatav1.DiffRequest, stream fermatav1.Fermata_DiffServer) error {
	for _, c := range s.f.changes {
		if err := stream.Send(&fermatav1.DiffResponse{Changes: []*fermatav1.Change{c}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *fakeFermata) ImageHistory(context.Context, *fermatav1.ImageHistoryRequest) (*fermatav1.ImageHistoryResponse, error) {
	return &fermatav1.ImageHistoryResponse{Steps: s.f.history}, nil
}

func (f *fake) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for i, e := range f.events {
		if i == len(f.events)-1 && f.begun != nil {
			f.begun()
		}
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	if f.hold {
		<-stream.Context().Done()
	}
	return nil
}

// outcome is what a command left.
type outcome struct {
	code        int
	out, errOut string
}

// do runs a command line against address.
func do(t *testing.T, address, stdin string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	code := Main(t.Context(), args, Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut, Address: address, Version: "1.2.3",
	})
	return outcome{code, out.String(), errOut.String()}
}
