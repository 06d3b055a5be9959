package cadvisor

import (
	"context"
	"maps"

	"google.golang.org/grpc"

	cadvisorv1 "fermata/api/cadvisor/v1"
	"fermata/internal/errs"
	"fermata/internal/pod"
)

// Pods knows whose a control group is.
type Pods interface {
	// Owner finds a sandbox or container by its whole ID, which is its group's name; NotFound if there is none.
	Owner(id string) (*pod.Owner, error)
}

// Register adds the calls to a server; version is told as the runtime's.
func Register(s *grpc.Server, pods Pods, version string) {
	s.RegisterService(service("containerd.services.containers.v1.Containers", "Get", func(req *cadvisorv1.GetContainerRequest) (*cadvisorv1.GetContainerResponse, error) {
		return container(pods, req.GetId())
	}), nil)
	s.RegisterService(service("containerd.services.tasks.v1.Tasks", "Get", func(req *cadvisorv1.GetTaskRequest) (*cadvisorv1.GetTaskResponse, error) {
		return task(pods, req.GetContainerId())
	}), nil)
	s.RegisterService(service("containerd.services.version.v1.Version", "Version", func(*cadvisorv1.VersionRequest) (*cadvisorv1.VersionResponse, error) {
		return &cadvisorv1.VersionResponse{Version: version}, nil
	}), nil)
}

// service describes a service of one call. Made by hand, because its name is containerd's and its messages' are ours.
func service[Req, Resp any](name, method string, answer func(*Req) (*Resp, error)) *grpc.ServiceDesc {
	info := &grpc.UnaryServerInfo{FullMethod: "/" + name + "/" + method}
	handle := func(_ context.Context, req any) (any, error) { return answer(req.(*Req)) }
	return &grpc.ServiceDesc{ServiceName: name, Methods: []grpc.MethodDesc{{
		MethodName: method,
		Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			req := new(Req)
			if err := decode(req); err != nil {
				return nil, err
			}
			if intercept == nil {
				return handle(ctx, req)
			}
			return intercept(ctx, req, info, handle)
		},
	}}}
}

// kindLabel tells cAdvisor a sandbox, whose network it counts as the pod's, from a container, whose it does not count again.
const kindLabel = "io.cri-containerd.kind"

// noSpec is a spec that says nothing: cAdvisor reads environments from it when told to, and fails without one.
const noSpec = `{"process":{}}`

func container(pods Pods, id string) (*cadvisorv1.GetContainerResponse, error) {
	o, err := pods.Owner(id)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	maps.Copy(labels, o.Labels)
	labels[kindLabel] = "container"
	if o.Sandbox {
		labels[kindLabel] = "sandbox"
	}
	return &cadvisorv1.GetContainerResponse{Container: &cadvisorv1.Container{
		Id: o.ID, Labels: labels, Image: o.Image,
		Spec:      &cadvisorv1.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(noSpec)},
		CreatedAt: &cadvisorv1.Timestamp{Seconds: o.Created.Unix(), Nanos: int32(o.Created.Nanosecond())},
	}}, nil
}

// running is containerd.v1.types.Status's RUNNING.
const running = 2

// task tells the first process. cAdvisor asks as soon as it sees a group, and again for about three seconds while the answer is NotFound.
func task(pods Pods, id string) (*cadvisorv1.GetTaskResponse, error) {
	o, err := pods.Owner(id)
	if err != nil {
		return nil, err
	}
	if o.PID == 0 {
		return nil, errs.New(errs.NotFound, "find process of %s: it does not run", id)
	}
	return &cadvisorv1.GetTaskResponse{Process: &cadvisorv1.Process{ContainerId: o.ID, Id: o.ID, Pid: uint32(o.PID), Status: running}}, nil
}
