// Package builtin connects pods without plugins: one bridge a node, a veth pair a pod, addresses of both families, masquerading and host ports,
// all by netlink from this process. Nothing is executed, nothing waits for another program.
//
// It promises what package network promises. The order that makes it true: a lease is on disk before anything in the kernel changes, and
// goes last; names of links are derived from the instance and the sandbox, so that what a crash left can be found without any record.
//
// What the pieces know: package lease addresses, package hostport the nftables table, package rtnl messages; this package which of them
// a pod needs, and in which order.
//
// Each pod is a port of the bridge in hairpin mode with a fixed hardware address derived from its IP address. The bridge has the
// gateways' addresses (the first of each network) and no spanning tree. Packets from elsewhere reach pods if whoever sends them has a route, as Kubernetes wants it;
// a foreign firewall that drops forwarded packets is not overruled: a verdict of nftables to accept ends only its own table's chain.
package builtin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/hostport"
	"fermata/internal/network/lease"
	"fermata/internal/network/rtnl"
)

// Options say where and how to build the bridge.
type Options struct {
	// Dir keeps leases and settings.
	Dir string
	// Bridge is its name; "" is "fermata0".
	Bridge string
	// Subnet and Subnet6 are networks for pods, None turns the family off, "" leaves the choice to SetPodCIDR and to the bridge.
	Subnet, Subnet6 string
	// Cluster are the networks of the pods of all nodes, one or one of each family with a comma between. Pods reach them with their own addresses,
	// and there are no pods here before SetPodCIDR, unless Subnet is said: no other node would have a route to what the bridge chooses.
	Cluster string
	// Instance tells several on one host apart.
	Instance string
	// HostNetNS plays the host, borrowed until Close; nil is the process's own namespace.
	HostNetNS *linux.FD
}

// Bridge is the built-in network. It is safe for concurrent use.
type Bridge struct {
	options Options
	name    string
	cluster []netip.Prefix
	home    *linux.Home
	hostNS  *linux.FD
	v6      bool

	host    *rtnl.Conn
	leases  *lease.Store
	table   *hostport.Table
	remover *remover

	// busy keeps calls about one sandbox apart.
	busy endpoint.Locks

	// localnetMu orders the turning on and off of route_localnet.
	localnetMu sync.Mutex
	localnet   bool

	// mu guards what follows. Setting up holds it whole, attaching reads it.
	mu       sync.RWMutex
	settings settings
	ranges   []netip.Prefix
	// appliedCIDR is the kubelet's pod CIDR that the last successful setup took into account.
	appliedCIDR string
	index       int
	mtu         int
	// attached remembers which sandboxes this process has connected, to which namespace.
	attached map[string]connected
	// notes are what Open found broken, for the first Reconcile to tell.
	notes []string
	// closed refuses work after Teardown.
	closed bool
}

// Open reads leases and settings, and makes bridge, addresses, table and forwarding where they are missing.
func Open(o Options) (_ *Bridge, err error) {
	if o.Bridge == "" {
		o.Bridge = "fermata0"
	}
	if len(o.Bridge) >= syscall.IFNAMSIZ || o.Instance == "" || len(o.Instance) > 64 {
		return nil, errs.New(errs.InvalidArgument, "open network: bridge %q (up to 15 letters), instance %q (1 to 64)", o.Bridge, o.Instance)
	}
	b := &Bridge{options: o, name: o.Bridge, hostNS: o.HostNetNS, attached: map[string]connected{}}
	if o.Cluster != "" {
		if b.cluster, err = parsePodCIDR(o.Cluster); err != nil {
			return nil, fmt.Errorf("open network: the cluster's networks: %w", err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open network: %w", err), b.Close())
		}
	}()
	if b.home, err = linux.OpenHome(); err != nil {
		return nil, err
	}
	if b.hostNS == nil {
		b.hostNS = b.home.NS()
	}
	if err := b.load(); err != nil {
		return nil, err
	}
	if err := b.home.Visit(b.hostNS, func() (err error) { b.v6, err = hasIPv6(); return err }); err != nil {
		return nil, err
	}
	if b.host, err = rtnl.Dial(b.home, b.hostNS); err != nil {
		return nil, err
	}
	if b.table, err = hostport.Open(b.hostNS, o.Instance, b.name, b.cluster); err != nil {
		return nil, err
	}
	b.remover = newRemover(
		func() (*rtnl.Conn, error) { return rtnl.DialForDeletion(b.home, b.hostNS) },
		func(name string) bool { _, err := b.host.Link(name); return !errors.Is(err, syscall.ENODEV) })
	for _, r := range b.leases.All() {
		if err := b.table.Reserve(r.SandboxID, r.IPs(), r.Ports); err != nil {
			b.notes = append(b.notes, fmt.Sprintf("lease of %s: %v", r.SandboxID, err))
		}
	}
	return b, b.setup()
}

// load reads what is on disk.
func (b *Bridge) load() error {
	if err := os.MkdirAll(b.options.Dir, 0o700); err != nil {
		return err
	}
	var broken string
	var err error
	if b.settings, broken, err = loadSettings(b.options.Dir); err != nil {
		return err
	}
	if broken != "" {
		b.notes = append(b.notes, broken)
	}
	var notes []string
	if b.leases, notes, err = lease.Open(b.options.Dir); err != nil {
		return err
	}
	b.notes = append(b.notes, notes...)
	return nil
}

// Close waits for links on their way out and lets go of sockets.
func (b *Bridge) Close() error {
	var errs []error
	if b.remover != nil {
		errs = append(errs, b.remover.close())
	}
	if b.table != nil {
		errs = append(errs, b.table.Close())
	}
	return errors.Join(append(errs, b.host.Close(), b.home.Close())...)
}

// setup makes everything that pods share. It may be called again at any time.
func (b *Bridge) setup() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	ranges, err := b.decideRanges()
	if err != nil {
		return err
	}
	if err := b.leases.SetRanges(ranges); err != nil {
		return err
	}
	b.ranges = ranges
	if err := b.setupLink(); err != nil {
		return err
	}
	if err := b.table.Rebuild(b.podNetworks()); err != nil {
		return err
	}
	if _, err := b.forward(); err != nil {
		return err
	}
	if err := b.updateLocalnet(); err != nil {
		return err
	}
	b.appliedCIDR = b.settings.PodCIDR
	return nil
}

// setupLink makes the bridge with its addresses.
func (b *Bridge) setupLink() error {
	mtu, err := b.uplinkMTU()
	if err != nil {
		return err
	}
	link, err := b.host.Link(b.name)
	if errors.Is(err, syscall.ENODEV) {
		if err = b.host.Do(rtnl.CreateBridge(b.name, bridgeMAC(b.options.Instance, b.name), mtu)); err == nil {
			link, err = b.host.Link(b.name)
		}
	}
	if err != nil {
		return err
	}
	if mac := bridgeMAC(b.options.Instance, b.name); link.Kind != "bridge" || link.MAC.String() != mac.String() {
		return errs.New(errs.FailedPrecondition, "bridge %s: there is a link of that name that this instance has not made (kind %q, address %s, want %s); choose another name",
			b.name, link.Kind, link.MAC, mac)
	}
	b.index, b.mtu = link.Index, mtu
	if b.v6 { // before it comes up: the bridge hears no advertisement of a pod, and its own address needs no detection
		err := b.home.Visit(b.hostNS, func() error {
			return errors.Join(writeSysctl("ipv6/conf/"+b.name+"/accept_ra", "0"), writeSysctl("ipv6/conf/"+b.name+"/accept_dad", "0"))
		})
		if err != nil {
			return err
		}
	}
	requests := []*rtnl.Request{rtnl.SetUp(b.name, b.index)}
	if link.MTU != mtu {
		requests = append(requests, rtnl.SetMTU(b.name, mtu))
	}
	for _, p := range b.podNetworks() {
		requests = append(requests, rtnl.AddAddress(b.name, b.index, netip.PrefixFrom(lease.Gateway(p), p.Bits())).Or(syscall.EEXIST))
	}
	return b.host.Do(requests...)
}

// podNetworks are the networks that pods have addresses of: the present ones, and those from before that some still have.
func (b *Bridge) podNetworks() []netip.Prefix {
	all := slices.Clone(b.ranges)
	for _, r := range b.leases.All() {
		for _, p := range r.Addresses {
			if !slices.Contains(all, p.Masked()) {
				all = append(all, p.Masked())
			}
		}
	}
	return all
}

// uplinkMTU is the smallest MTU of the links that default routes lead to, 1500 without any: a pod that sends larger packets depends on
// path discovery, which networks tend to break.
func (b *Bridge) uplinkMTU() (int, error) {
	routes, err := b.host.Routes()
	if err != nil {
		return 0, err
	}
	links, err := b.host.Links()
	if err != nil {
		return 0, err
	}
	mtu := 0
	for _, r := range routes {
		for _, l := range links {
			if r.To.Bits() == 0 && l.Index == r.Link && !l.Loopback && l.MTU >= 1280 && (mtu == 0 || l.MTU < mtu) { // 1280: the least for IPv6
				mtu = l.MTU
			}
		}
	}
	if mtu == 0 {
		mtu = 1500
	}
	return mtu, nil
}

// updateLocalnet turns route_localnet of the bridge on while a port is to be reached by 127.0.0.1, and off after. The guard in the
// table keeps pods from the host's loopback all the same.
func (b *Bridge) updateLocalnet() error {
	b.localnetMu.Lock()
	defer b.localnetMu.Unlock()
	need := b.table.NeedsLocalnet()
	if need == b.localnet {
		return nil
	}
	if err := b.host.Do(rtnl.SetRouteLocalnet(b.name, need)); err != nil {
		return err
	}
	b.localnet = need
	return nil
}

// SetPodCIDR takes the kubelet's networks for pods to come, unless one is configured.
func (b *Bridge) SetPodCIDR(cidr string) error {
	if cidr == "" || b.options.Subnet != "" {
		return nil
	}
	if _, err := parsePodCIDR(cidr); err != nil {
		return err
	}
	b.mu.Lock()
	if b.appliedCIDR == cidr { // the kubelet repeats it
		b.mu.Unlock()
		return nil
	}
	b.settings.PodCIDR = cidr
	err := b.settings.save(b.options.Dir)
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("remember pod CIDR: %w", err)
	}
	if err := b.setup(); err != nil {
		return fmt.Errorf("set pod CIDR %s: %w", cidr, err)
	}
	return nil
}

// Status says what keeps pods from being connected: the bridge or the table gone, forwarding off, no address left.
func (b *Bridge) Status() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return errs.New(errs.FailedPrecondition, "network of bridge %s: was torn down", b.name)
	}
	link, err := b.host.Link(b.name)
	if err != nil {
		return errs.New(errs.Unavailable, "network: %w", err)
	}
	if !link.Up || link.Index != b.index {
		return errs.New(errs.Unavailable, "network: bridge %s is down or another one", b.name)
	}
	if there, err := b.table.Exists(); err != nil || !there {
		return errs.New(errs.Unavailable, "network: nft table of instance %s is gone: %w", b.options.Instance, errors.Join(err, os.ErrNotExist))
	}
	if err := b.waiting(); err != nil {
		return err
	}
	if size, used := b.leases.Size(); used >= size {
		return errs.New(errs.ResourceExhausted, "network: all %d addresses are leased", size)
	}
	return b.home.Visit(b.hostNS, func() error {
		if v, err := readSysctl(forwarding4); err != nil || v != "1" {
			return errs.New(errs.Unavailable, "network: net.ipv4.ip_forward is %q: pods reach nobody: %w", v, errors.Join(err, syscall.ENETUNREACH))
		}
		return nil
	})
}

// waiting says that the kubelet has not told this node's part of the cluster's networks. b.mu is held.
func (b *Bridge) waiting() error {
	if len(b.cluster) != 0 && len(b.ranges) == 0 {
		return errs.New(errs.Unavailable, "network: the kubelet has not told the node's pod CIDR of the cluster's %s yet", b.options.Cluster)
	}
	return nil
}

// Ranges are the networks pods get addresses of, the primary one first.
func (b *Bridge) Ranges() []netip.Prefix {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Clone(b.ranges)
}

// Teardown removes every pod's link and lease, the bridge, and the table, and turns forwarding off if it was fermata that turned it on.
func (b *Bridge) Teardown(ctx context.Context) error {
	if _, err := b.Reconcile(ctx, func(string) bool { return false }); err != nil {
		return fmt.Errorf("tear down network: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	err := errors.Join(b.host.Do(rtnl.DeleteLink(b.name).Or(syscall.ENODEV)), b.table.Delete(), b.stopForwarding())
	if err != nil {
		return fmt.Errorf("tear down network: %w", err)
	}
	return nil
}
