// Package cri is a small CRI v1 client for tests and measurements: the generated calls, plus the sequences that every test of pods
// repeats. It works with any runtime.
package cri

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Client is a connection to a runtime.
type Client struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient

	conn *grpc.ClientConn
}

// Dial connects to an endpoint ("unix:///run/…"), at the first call and again whenever the daemon was away.
func Dial(endpoint string) (*Client, error) {
	backoff := grpc.ConnectParams{MinConnectTimeout: time.Second}
	backoff.Backoff.BaseDelay, backoff.Backoff.MaxDelay, backoff.Backoff.Multiplier = 5*time.Millisecond, 20*time.Millisecond, 1
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(backoff),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, err
	}
	return &Client{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Missing returns which of RuntimeReady and NetworkReady are not met. Others (containerd has one for deprecations) do not count.
func (c *Client) Missing(ctx context.Context) ([]string, error) {
	status, err := c.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, condition := range status.GetStatus().GetConditions() {
		if t := condition.GetType(); !condition.GetStatus() && (t == runtimeapi.RuntimeReady || t == runtimeapi.NetworkReady) {
			missing = append(missing, condition.GetType()+": "+condition.GetMessage())
		}
	}
	return missing, nil
}

var names atomic.Uint64

// PodConfig is a pod with a name of its own, as the kubelet would ask for it; logs go below logs ("" for none).
func PodConfig(prefix, logs string) *runtimeapi.PodSandboxConfig {
	name := fmt.Sprintf("%s-%d-%d", prefix, time.Now().UnixNano()%1e9, names.Add(1))
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"},
		Hostname:     "pod",
		LogDirectory: logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

// ContainerConfig is a container of an image that runs command, logging to "<name>.log".
func ContainerConfig(name, image string, command ...string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: image},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

// Pull pulls an image and returns its ID.
func (c *Client) Pull(ctx context.Context, image string) (string, error) {
	pulled, err := c.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	return pulled.GetImageRef(), err
}

// RunPod makes a pod and returns its ID.
func (c *Client) RunPod(ctx context.Context, pod *runtimeapi.PodSandboxConfig) (string, error) {
	made, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	return made.GetPodSandboxId(), err
}

// Create makes a container in a pod and returns its ID.
func (c *Client) Create(ctx context.Context, podID string, pod *runtimeapi.PodSandboxConfig, ctr *runtimeapi.ContainerConfig) (string, error) {
	made, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: ctr, SandboxConfig: pod})
	return made.GetContainerId(), err
}

// Start starts a container.
func (c *Client) Start(ctx context.Context, id string) error {
	_, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

// Run creates and starts a container.
func (c *Client) Run(ctx context.Context, podID string, pod *runtimeapi.PodSandboxConfig, ctr *runtimeapi.ContainerConfig) (string, error) {
	id, err := c.Create(ctx, podID, pod, ctr)
	if err != nil {
		return "", err
	}
	return id, c.Start(ctx, id)
}

// Exec runs a command in a container and returns what it wrote; another exit code than 0 is an error.
func (c *Client) Exec(ctx context.Context, id string, command ...string) (string, error) {
	done, err := c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 30})
	if err != nil {
		return "", err
	}
	if done.GetExitCode() != 0 {
		return string(done.GetStdout()), fmt.Errorf("exec %q: exit code %d: %s", command, done.GetExitCode(), done.GetStderr())
	}
	return string(done.GetStdout()), nil
}

// State returns a container's status.
func (c *Client) State(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	status, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return status.GetStatus(), err
}

// WaitExited waits until a container has ended and returns its status.
func (c *Client) WaitExited(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := c.State(ctx, id)
		if err != nil || status.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			return status, err
		}
		select {
		case <-ctx.Done():
			return status, fmt.Errorf("container %s is %v: %w", id, status.GetState(), ctx.Err())
		case <-tick.C:
		}
	}
}

// RemovePod stops and removes a pod with its containers.
func (c *Client) RemovePod(ctx context.Context, id string) error {
	if _, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

// RemoveAll removes every pod of the runtime, whatever state it is in; a pod that cannot be removed does not keep the others.
func (c *Client) RemoveAll(ctx context.Context) error {
	pods, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var failed []error
	for _, pod := range pods.GetItems() {
		if err := c.RemovePod(ctx, pod.GetId()); err != nil {
			failed = append(failed, fmt.Errorf("remove pod %s: %w", pod.GetMetadata().GetName(), err))
		}
	}
	return errors.Join(failed...)
}
