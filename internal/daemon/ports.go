package daemon

import (
	"net/netip"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/network"
)

// portMappings reads the CRI's; one without a host port maps nothing.
func portMappings(asked []*runtimeapi.PortMapping) ([]network.PortMapping, error) {
	var all []network.PortMapping
	for i, m := range asked {
		if m.GetHostPort() <= 0 {
			continue
		}
		bad := func(field string, value any) error {
			return errs.New(errs.InvalidArgument, "run pod sandbox: config.port_mappings[%d].%s: %v", i, field, value)
		}
		if m.GetHostPort() > 65535 {
			return nil, bad("host_port", m.GetHostPort())
		}
		if m.GetContainerPort() <= 0 || m.GetContainerPort() > 65535 {
			return nil, bad("container_port", m.GetContainerPort())
		}
		var ip netip.Addr
		if m.GetHostIp() != "" {
			var err error
			if ip, err = netip.ParseAddr(m.GetHostIp()); err != nil {
				return nil, bad("host_ip", err)
			}
		}
		name, known := runtimeapi.Protocol_name[int32(m.GetProtocol())]
		if !known {
			return nil, bad("protocol", m.GetProtocol())
		}
		all = append(all, network.PortMapping{
			Protocol: strings.ToLower(name), ContainerPort: uint16(m.GetContainerPort()), HostPort: uint16(m.GetHostPort()), HostIP: ip,
		})
	}
	return all, nil
}
