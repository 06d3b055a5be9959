package kubelet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Pod is what tests ask of a v1.Pod; a member has its meaning there.
type Pod struct {
	Metadata struct {
		Name, Namespace, UID string
		Annotations          map[string]string
	}
	Status PodStatus
}

// PodStatus is what the kubelet found.
type PodStatus struct {
	Phase, Reason, Message  string
	PodIP                   string
	Conditions              []Condition
	InitContainerStatuses   []ContainerStatus
	ContainerStatuses       []ContainerStatus
	EphemeralContainerState []ContainerStatus `json:"ephemeralContainerStatuses"`
}

// Condition is one of a pod's conditions, such as "Ready".
type Condition struct{ Type, Status, Reason, Message string }

// ContainerStatus is one container's.
type ContainerStatus struct {
	Name, ImageID, ContainerID string
	Ready                      bool
	Started                    *bool
	RestartCount               int
	State, LastState           ContainerState
	Resources                  *Resources
}

// Resources are what the container has, in the API's quantities.
type Resources struct{ Limits, Requests map[string]string }

// ContainerState has one member that is not nil; none of a container that was not made yet.
type ContainerState struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt time.Time }
	Terminated *Terminated
}

// Terminated is how a container ended.
type Terminated struct {
	ExitCode, Signal      int
	Reason, Message       string
	StartedAt, FinishedAt time.Time
	ContainerID           string
}

// ID is the container's ID in the runtime, without the runtime's name before it.
func (s ContainerStatus) ID() string {
	_, id, _ := strings.Cut(s.ContainerID, "://")
	return id
}

// Container returns the status of one container of either kind; ok is false while the kubelet has none.
func (p *Pod) Container(name string) (status ContainerStatus, ok bool) {
	for _, list := range [][]ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerState} {
		for _, s := range list {
			if s.Name == name {
				return s, true
			}
		}
	}
	return ContainerStatus{}, false
}

// Condition returns a condition's status: "True", "False", or "" when there is none.
func (p *Pod) Condition(name string) string {
	for _, c := range p.Status.Conditions {
		if c.Type == name {
			return c.Status
		}
	}
	return ""
}

// anonymous does not keep connections, so that a test has none open at its end; the kubelet signs its certificate itself.
var anonymous = &http.Client{
	Timeout:   30 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
}

// Get returns what the kubelet answers at a path ("/metrics/cadvisor"), with the rights of Options.Client.
func (k *Kubelet) Get(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, k.Client, "https://"+net.JoinHostPort(k.Address, strconv.Itoa(k.Port))+path)
}

// Pods are the kubelet's pods.
func (k *Kubelet) Pods(ctx context.Context) ([]Pod, error) {
	data, err := k.Get(ctx, "/pods")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []Pod }
	return list.Items, json.Unmarshal(data, &list)
}

// Pod returns a static pod by the name in its manifest; nil when the kubelet has none (any more).
func (k *Kubelet) Pod(ctx context.Context, name string) (*Pod, error) {
	pods, err := k.Pods(ctx)
	for i := range pods {
		if pods[i].Metadata.Name == name+"-"+k.Name {
			return &pods[i], nil
		}
	}
	return nil, err
}

// Healthy returns nil when the kubelet says so, which includes that it synchronizes its pods.
func (k *Kubelet) Healthy(ctx context.Context) error {
	_, err := k.Get(ctx, "/healthz")
	return err
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %.500s", url, response.Status, data)
	}
	return data, err
}
