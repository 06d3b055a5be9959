// Package endpoint holds the words that both ways of connecting a pod (packages builtin and cni) share with package network:
// what is asked for ([Attachment]), what came of it ([Result]), what is owed ([Debt]). It does nothing.
package endpoint

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Interface is the name of the pod's interface, which Kubernetes, CNI and many images expect.
const Interface = "eth0"

// PortMapping makes a port of the pod reachable at the host (CRI PortMapping).
type PortMapping struct {
	// Protocol is "tcp", "udp" or "sctp"; "" is tcp.
	Protocol string
	// ContainerPort is the port inside the pod, 1 to 65535.
	ContainerPort uint16
	// HostPort is the port at the host; 0 means no mapping at all (CRI: host_port ≤ 0).
	HostPort uint16
	// HostIP is the host's address it is reachable at. The zero Addr is every address of both families; 0.0.0.0 and :: are every
	// address of their own.
	HostIP netip.Addr
}

// String shows the mapping as docker and crictl do: 127.0.0.1:8080->80/tcp.
func (m PortMapping) String() string {
	host := "*"
	if m.HostIP.IsValid() {
		host = m.HostIP.String()
		if m.HostIP.Is6() {
			host = "[" + host + "]"
		}
	}
	return fmt.Sprintf("%s:%d->%d/%s", host, m.HostPort, m.ContainerPort, m.Protocol)
}

// Attachment is a pod to be connected.
type Attachment struct {
	// SandboxID names the pod; attaching the same one again gives the same result.
	SandboxID string
	// NetNS is the pod's network namespace, borrowed for the call.
	NetNS *linux.FD
	// Ports to be reachable at the host.
	Ports []PortMapping
	// PodName, PodNamespace and PodUID tell a reader of the records (and a CNI plugin) whose it is.
	PodName, PodNamespace, PodUID string
	// Annotations are the pod's; plugins may be told of them.
	Annotations map[string]string
}

// Difference is something at the host that is not as it should be.
type Difference struct {
	// What is wrong ("link fm…: belongs to no sandbox"), and Mend what mends it ("removed").
	What, Mend string
}

// String says what was wrong and has been mended.
func (d Difference) String() string { return d.What + ", " + d.Mend }

// Debt is a network plugin's DEL that has not succeeded: the plugin may still hold an address for a pod that is gone.
type Debt struct {
	SandboxID, PodName, PodNamespace string
	// Network is the name of the plugin's network.
	Network string
	// Since is when it failed first; it was tried Tries times and will be again at Next.
	Since, Next time.Time
	Tries       int
	// Error is of the last try.
	Error string
}

// Check refuses what can never succeed.
func (a *Attachment) Check() error {
	if err := CheckID(a.SandboxID); err != nil {
		return err
	}
	if a.NetNS.Int() < 0 {
		return errs.New(errs.InvalidArgument, "attach %s: no network namespace", a.SandboxID)
	}
	return nil
}

// CheckID refuses a sandbox ID that cannot be a file's name.
func CheckID(id string) error {
	ok := id != "" && len(id) <= 200 && id[0] != '.'
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if !ok {
		return errs.New(errs.InvalidArgument, "sandbox ID %q: want up to 200 letters, digits, '-', '_', '.', and no leading '.'", id)
	}
	return nil
}

// Result is how a pod is connected.
type Result struct {
	// Interface is the name inside the pod.
	Interface string
	// HostInterface is the name of the other end, at the host; "" of a pod that plugins connected.
	HostInterface string
	// IPs are the pod's addresses, the primary one first.
	IPs []netip.Addr
	// Gateways are the next hops of the default routes, in the order of IPs.
	Gateways []netip.Addr
	// MAC is the hardware address of Interface.
	MAC net.HardwareAddr
}
