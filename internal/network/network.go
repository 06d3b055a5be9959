// Package network connects pods: an interface, addresses, routes, and ports at the host.
//
// It promises that what it records comes before what it changes, so that a crash at any instruction leaves nothing that
// [Network.Reconcile] does not find; that attaching twice is attaching once; and that when [Network.Detach] returns, addresses, port
// mappings and the host's interface are free.
//
// Pods are connected by the built-in bridge (package builtin), or by CNI plugins once a network is configured for them (package cni); both speak the
// words of package endpoint. A pod is disconnected by whoever connected it. Making and keeping network namespaces belongs to the keeper, not here.
package network

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"fermata/internal/linux"
	"fermata/internal/network/builtin"
	"fermata/internal/network/cni"
	"fermata/internal/network/endpoint"
)

// Options say where and how to build the network.
type Options struct {
	// State is the directory that a reboot empties, as the network is emptied by it; Root the one that it keeps.
	State, Root string
	// Bridge is the name of the bridge; "" is "fermata0".
	Bridge string
	// Subnet and Subnet6 are CIDRs for pods, Subnet also both with a comma between; "none" turns a family off; "" lets the kubelet's pod CIDR or, without one, the network choose: a /16 and a ULA /64
	// that overlap no route or address of the host, remembered under Root.
	Subnet, Subnet6 string
	// Cluster are the networks of the whole cluster's pods, as Subnet in form; see builtin.Options.
	Cluster string
	// Instance tells several fermatas on one host apart: the nft table is "fermata-<Instance>".
	Instance string
	// CNIConfDir, CNIBinDirs and CNICache are where CNI plugins, their configuration and what they answered are; "" for no plugins.
	CNIConfDir string
	CNIBinDirs []string
	CNICache   string
	Log        *slog.Logger
	// HostNetNS is the namespace that plays the host, borrowed until Close; nil is the one the process is in.
	HostNetNS *linux.FD
}

// PortMapping, Attachment, Result, Difference and Debt are described in package endpoint.
type (
	PortMapping = endpoint.PortMapping
	Attachment  = endpoint.Attachment
	Result      = endpoint.Result
	Difference  = endpoint.Difference
	Debt        = endpoint.Debt
)

// Network connects pods. It is safe for concurrent use.
type Network struct {
	builtin *builtin.Bridge
	plugins *cni.Plugins
}

// Open reads what is recorded and makes the bridge and the nft table where missing. It touches no pod: see Reconcile.
func Open(o Options) (*Network, error) {
	if four, six, both := strings.Cut(o.Subnet, ","); both && o.Subnet6 == "" {
		o.Subnet, o.Subnet6 = strings.TrimSpace(four), strings.TrimSpace(six)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b, err := builtin.Open(builtin.Options{
		Dir: o.Root + "/network", Bridge: o.Bridge, Subnet: o.Subnet, Subnet6: o.Subnet6, Cluster: o.Cluster, Instance: o.Instance, HostNetNS: o.HostNetNS,
	})
	if err != nil {
		return nil, err
	}
	p, err := cni.Open(cni.Options{
		ConfDir: o.CNIConfDir, BinDirs: o.CNIBinDirs, Cache: o.CNICache, Dir: o.Root + "/network/cni", Instance: o.Instance, Log: o.Log,
	})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &Network{builtin: b, plugins: p}, nil
}

// Close lets go of sockets and of the paying of debts; pods stay connected.
func (n *Network) Close() error { return errors.Join(n.plugins.Close(), n.builtin.Close()) }

// Attach connects a pod. The lease is on disk before anything changes. The same SandboxID again gives the same result.
//
// Errors: InvalidArgument (a port mapping that cannot be), AlreadyExists (a host port that another pod has), ResourceExhausted (no
// address left), DeadlineExceeded (a plugin that hangs). After any error nothing is left of the attempt, but perhaps a debt.
func (n *Network) Attach(ctx context.Context, a Attachment) (*Result, error) {
	if n.builtin.Has(a.SandboxID) || !n.plugins.Has(a.SandboxID) && !n.plugins.Installed() {
		return n.builtin.Attach(ctx, a)
	}
	if err := Loopback(a.NetNS); err != nil { // CNI-4: plugins do not
		return nil, err
	}
	return n.plugins.Attach(ctx, a)
}

// Detach disconnects a pod; one that is unknown is fine. When it returns without an error the pod's addresses, port mappings and
// host interface are gone, or are a debt.
func (n *Network) Detach(ctx context.Context, sandboxID string) error {
	return errors.Join(n.plugins.Detach(ctx, sandboxID), n.builtin.Detach(ctx, sandboxID))
}

// Debts lists what network plugins have not given back, the oldest first.
func (n *Network) Debts() []Debt { return n.plugins.Debts() }

// PayDebts asks for all of it now, and returns why the rest remains.
func (n *Network) PayDebts(ctx context.Context) error { return n.plugins.Pay(ctx) }

// Working says what a network plugin does for a sandbox right now.
func (n *Network) Working(sandboxID string) (plugin, verb string, since time.Time, at bool) {
	w, at := n.plugins.Working(sandboxID)
	return w.Plugin, w.Verb, w.Since, at
}

// Status says why pods could not be connected now; nil when they could.
func (n *Network) Status(ctx context.Context) error {
	if n.plugins.Installed() {
		return n.plugins.Status(ctx)
	}
	return n.builtin.Status()
}

// SetPodCIDR takes the kubelet's ranges (UpdateRuntimeConfig; one CIDR or two with a comma between) for pods attached from now on.
// It does nothing when a subnet was configured. Pods that are connected keep their addresses. A family that the kubelet does not name is one
// that the cluster does not have: pods get no address of it.
func (n *Network) SetPodCIDR(cidr string) error { return n.builtin.SetPodCIDR(cidr) }

// Reconcile removes leases, links and port mappings of sandboxes that are not live, puts back what live ones miss at the host, and
// tells what it found and mended.
func (n *Network) Reconcile(ctx context.Context, live func(sandboxID string) bool) ([]Difference, error) {
	bridged, err := n.builtin.Reconcile(ctx, live)
	plugged, pluggedErr := n.plugins.Reconcile(ctx, live)
	return append(bridged, plugged...), errors.Join(err, pluggedErr)
}

// Examine tells what Reconcile would mend, and changes nothing.
func (n *Network) Examine(ctx context.Context, live func(sandboxID string) bool) ([]Difference, error) {
	bridged, err := n.builtin.Examine(ctx, live)
	plugged, pluggedErr := n.plugins.Examine(live)
	return append(bridged, plugged...), errors.Join(err, pluggedErr)
}

// Teardown removes bridge, table, leases and links: uninstalling. The network is of no use afterwards except to Close.
func (n *Network) Teardown(ctx context.Context) error { return n.builtin.Teardown(ctx) }

// Loopback brings lo up in a network namespace.
func Loopback(netns *linux.FD) error { return builtin.Loopback(netns) }
