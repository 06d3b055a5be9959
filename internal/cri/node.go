package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Name is the runtime's, as nodes show it: fermata://version.
const Name = "fermata"

// kubeletAPIVersion is what every runtime answers (VER-1); nobody reads it any more.
const kubeletAPIVersion = "0.1.0"

// nodeCalls are about the node as a whole.
type nodeCalls struct{ node Node }

// Version names the runtime (VER-1).
func (n *nodeCalls) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: kubeletAPIVersion, RuntimeName: Name, RuntimeVersion: n.node.Version, RuntimeApiVersion: "v1"}, nil
}

// Status says whether pods can be run and whether they can have addresses (STA-1…6). It asks memory only.
func (n *nodeCalls) Status(ctx context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := n.node.NetworkStatus(ctx); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	resp := &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, network}},
		RuntimeHandlers: n.node.Handlers,
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true, UserNamespacesHostNetwork: n.userNamespaces()},
	}
	if req.GetVerbose() {
		resp.Info = n.node.Info()
	}
	return resp, nil
}

// userNamespaces says whether any handler can: with the host's network they can do no less.
func (n *nodeCalls) userNamespaces() bool {
	return slices.ContainsFunc(n.node.Handlers, func(h *runtimeapi.RuntimeHandler) bool { return h.GetFeatures().GetUserNamespaces() })
}

// RuntimeConfig names the cgroup driver (RCF-1). An empty answer would mean systemd.
func (n *nodeCalls) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig takes the node's pod range from the kubelet (URC-1).
func (n *nodeCalls) UpdateRuntimeConfig(_ context.Context, req *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	if cidr := req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr(); cidr != "" {
		if err := n.node.SetPodCIDR(cidr); err != nil {
			return nil, fmt.Errorf("update runtime config: runtime_config.network_config.pod_cidr: %w", err)
		}
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// jsonInfo is a value of a verbose info map.
func jsonInfo(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "{}"
	}
	return string(b)
}
