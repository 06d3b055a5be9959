package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/image"
	"fermata/internal/pod"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestEveryKindHasACode(t *testing.T) {
	for _, k := range errs.Kinds() {
		if _, ok := Codes[k]; !ok {
			t.Errorf("kind %v has no gRPC code", k)
		}
	}
	if len(Codes) != len(errs.Kinds()) {
		t.Errorf("%d codes for %d kinds", len(Codes), len(errs.Kinds()))
	}
}

func TestToStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{io.EOF, codes.Internal},
		{fmt.Errorf("stop: %w", errs.New(errs.NotFound, "gone")), codes.NotFound},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{status.Error(codes.Unimplemented, "method X not implemented"), codes.Unimplemented},
	} {
		if got := status.Code(toStatus(c.err)); got != c.want {
			t.Errorf("%v became %v, want %v", c.err, got, c.want)
		}
	}
}

func TestBatchSendsEverythingOnceInBoundedParts(t *testing.T) {
	var list []*runtimeapi.Container
	for i := range 5000 {
		list = append(list, &runtimeapi.Container{Id: fmt.Sprint(i), Annotations: map[string]string{"a": strings.Repeat("x", 1000)}})
	}
	next, parts := 0, 0
	err := batch(list, func(part []*runtimeapi.Container) error {
		parts++
		size := 0
		for _, c := range part {
			if c.Id != fmt.Sprint(next) {
				t.Fatalf("got %s, want %d", c.Id, next)
			}
			next++
			size += proto.Size(c)
		}
		if size > 2*batchBytes {
			t.Errorf("a part of %d bytes", size)
		}
		return nil
	})
	if err != nil || next != len(list) || parts < 3 {
		t.Errorf("%d of %d sent in %d parts, %v", next, len(list), parts, err)
	}
	if err := batch(nil, func([]*runtimeapi.Container) error { return errors.New("called") }); err != nil {
		t.Error("an empty list sent a message")
	}
}

// noImages is a store that has nothing.
type noImages struct{ Images }

func (noImages) Resolve(ref string) (*image.Image, error) {
	if ref == "" {
		return nil, errs.New(errs.InvalidArgument, "find image: no name given")
	}
	return nil, errs.New(errs.NotFound, "find image %q", ref)
}
func (noImages) List() []*image.Image                 { return nil }
func (noImages) Remove(context.Context, string) error { return nil }
func (noImages) Usage() (uint64, uint64, error)       { return 1, 1, nil }
func (noImages) Root() string                         { return "/" }
func (noImages) Pull(_ context.Context, p image.Pull) (string, error) {
	if p.Ref == "away" {
		return "", errs.As(errs.Unavailable, fmt.Errorf("%w: connection refused", image.ErrRegistryUnavailable))
	}
	return "", errs.New(errs.InvalidArgument, "pull %q", p.Ref)
}

// serve runs the services over a real socket and returns a connection.
func serve(t *testing.T) *grpc.ClientConn {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	server := grpc.NewServer(Interceptors(log)...)
	pods := pod.New(pod.Options{Root: t.TempDir(), State: t.TempDir(), CgroupParent: "/none", Handlers: []string{""}, Log: log})
	Register(server, pods, noImages{}, Node{
		Version: "1", Handlers: []*runtimeapi.RuntimeHandler{{Name: ""}}, NetworkStatus: func(context.Context) error { return errors.New("no bridge") },
		SetPodCIDR: func(string) error { return nil }, Info: func() map[string]string { return map[string]string{"config": "{}"} },
	}, nil)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { server.Serve(l); close(done) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-done
		pods.Close()
	})
	return conn
}

// TestEveryCallTakesAnEmptyRequest calls each method of both services, found in the proto's descriptors, with nothing in its request: an answer or
// a proper code, never a panic; and what is not built says its name.
func TestEveryCallTakesAnEmptyRequest(t *testing.T) {
	conn := serve(t)
	for _, name := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			t.Run(string(m.Name()), func(t *testing.T) {
				err := call(t, conn, "/"+string(name)+"/"+string(m.Name()), m)
				text := status.Convert(err).Message()
				switch status.Code(err) {
				case codes.Internal, codes.Unknown:
					t.Errorf("an empty request gave %v", err)
				case codes.Unimplemented:
					if !strings.Contains(text, string(m.Name())) || strings.Contains(text, "not implemented") {
						t.Errorf("%q does not name the call, or is the library's: refused with a reason of ours is what is wanted", text)
					}
				case codes.OK, codes.NotFound, codes.InvalidArgument:
				default:
					t.Errorf("an empty request gave %v", err)
				}
			})
		}
	}
}

func call(t *testing.T, conn *grpc.ClientConn, method string, m protoreflect.MethodDescriptor) error {
	t.Helper()
	req, resp := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingServer() {
		return conn.Invoke(t.Context(), method, req, resp)
	}
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil {
		return err
	}
	if m.Name() == "GetContainerEvents" { // it goes on for as long as its caller listens, and its header says that it has begun
		_, err := stream.Header()
		return err
	}
	for {
		if err := stream.RecvMsg(resp); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestStatusSaysWhatIsNotReady(t *testing.T) {
	client := runtimeapi.NewRuntimeServiceClient(serve(t))
	resp, err := client.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*runtimeapi.RuntimeCondition{}
	for _, c := range resp.Status.Conditions {
		got[c.Type] = c
	}
	if !got["RuntimeReady"].GetStatus() || got["NetworkReady"].GetStatus() || got["NetworkReady"].GetMessage() != "no bridge" || resp.Info["config"] == "" {
		t.Errorf("status %v", resp)
	}
	driver, err := client.RuntimeConfig(t.Context(), &runtimeapi.RuntimeConfigRequest{})
	if err != nil || driver.GetLinux().GetCgroupDriver() != runtimeapi.CgroupDriver_CGROUPFS {
		t.Errorf("cgroup driver %v, %v: an empty answer would mean systemd", driver, err)
	}
}

// The kubelet shows RegistryUnavailable as the pod's reason only if the text begins so and the code is Unknown (GEN-6).
func TestARegistryThatIsAwayIsToldAsTheKubeletKnowsIt(t *testing.T) {
	client := runtimeapi.NewImageServiceClient(serve(t))
	_, err := client.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "away"}})
	if s := status.Convert(err); s.Code() != codes.Unknown || !strings.HasPrefix(s.Message(), "RegistryUnavailable") {
		t.Errorf("told %v %q", s.Code(), s.Message())
	}
}

func TestAPanicCostsOneCall(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if err := finish(log, "/x/Y", time.Time{}, "boom", nil); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "boom") {
		t.Errorf("a panic became %v", err)
	}
}

func TestImageUserIsANumberOrAName(t *testing.T) {
	for _, c := range []struct {
		user, name string
		uid        int64
	}{{"", "", 0}, {"1002", "", 1002}, {"1003:1004", "", 1003}, {"www-data", "www-data", 0}, {"www-data:100", "www-data", 0}} {
		img := &image.Image{ID: "sha256:x"}
		img.Config.User = c.user
		got := criImage(img)
		if got.Username != c.name || (c.name == "") != (got.Uid != nil) || got.Uid.GetValue() != c.uid {
			t.Errorf("user %q became uid %v, name %q", c.user, got.Uid, got.Username)
		}
	}
}
