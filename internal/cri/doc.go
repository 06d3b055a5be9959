// Package cri is the edge: the CRI v1 services on gRPC. A call here checks the form of the request, calls package pod or image, and builds the
// answer; it holds no state. Errors get their gRPC code in one interceptor ([Codes]), from their kind.
//
// What fermata does not do is refused with a reason (refused.go). The embedded Unimplemented servers are there for calls that a newer proto brings.
//
// What belongs elsewhere: behaviour (pod, image), the socket (daemon).
package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/image"
	"fermata/internal/pod"
)

// MaxMessage is the largest message taken and sent, in bytes: what the kubelet takes (GEN-2).
const MaxMessage = 16 << 20

// Node is what the status calls say of the node.
type Node struct {
	Version string
	// Handlers are the runtime handlers with what each can do; the default has the name "".
	Handlers []*runtimeapi.RuntimeHandler
	// NetworkStatus is nil when pods can get addresses.
	NetworkStatus func(context.Context) error
	// SetPodCIDR takes the range the cluster gave this node.
	SetPodCIDR func(cidr string) error
	// Info is the verbose part of Status, as JSON strings by key.
	Info func() map[string]string
}

// Images is the image store, as far as the edge needs it.
type Images interface {
	Pull(ctx context.Context, p image.Pull) (string, error)
	Resolve(ref string) (*image.Image, error)
	List() []*image.Image
	Remove(ctx context.Context, ref string) error
	ImageUsage
}

// ImageUsage is what the store takes on disk.
type ImageUsage interface {
	Usage() (bytes, inodes uint64, err error)
	Root() string
}

var _ Images = (*image.Store)(nil)

// Register puts both services on a server.
func Register(s *grpc.Server, pods *pod.Manager, images Images, node Node, streams Streams) {
	runtimeapi.RegisterRuntimeServiceServer(s, &runtime{
		nodeCalls: nodeCalls{node}, sandboxCalls: sandboxCalls{pods}, containerCalls: containerCalls{pods}, processCalls: processCalls{pods}, figureCalls: figureCalls{pods}, eventCalls: eventCalls{pods},
		streamCalls: streamCalls{pods, streams},
	})
	runtimeapi.RegisterImageServiceServer(s, &imageCalls{images: images, handlers: node.Handlers})
}

// runtime is RuntimeService, one embedded part a noun.
type runtime struct {
	unbuilt
	nodeCalls
	sandboxCalls
	containerCalls
	processCalls
	figureCalls
	eventCalls
	streamCalls
	refusedCalls
}

// unbuilt answers for what no part answers for: one level deeper than the parts, so that theirs win.
type unbuilt struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

var _ runtimeapi.RuntimeServiceServer = (*runtime)(nil)

// seconds reads the CRI's timeouts; a negative one is none.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(min(max(n, 0), most)) * time.Second
}
