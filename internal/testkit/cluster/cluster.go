// Package cluster starts a whole Kubernetes for tests: etcd, the API server, the controller manager and the scheduler, and nodes of which each is
// a kubelet with a fermata of its own in network, mount and host name namespaces of their own.
//
//	host ── bridge 198.18.N.1, fd00:198:18:N::1 ── control plane, registry of images
//	          ├── veth ── node "a" 198.18.N.2: kubelet, fermata, pods of a /24 and a /64 that the controller manager gave it
//	          └── veth ── node "b" 198.18.N.3: the same; routes to each other node's
//
// The cluster is dual-stack, IPv4 first. Everything listens on the bridge's address, which no other machine reaches. The host gets one bridge with its
// veths and each node's cgroup, which Stop takes away; see package kubelet for what a kubelet changes and Stop puts back. There is no
// kube-proxy and no cluster DNS: what fermata does is the same without them.
//
// What belongs elsewhere: starting fermata (package node) and kubelets (package kubelet), building the programs (package tools), the images (package images).
package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/machine"
)

// Options say where a cluster keeps what is its own.
type Options struct {
	// Dir holds everything: certificates, data, sockets, logs. Kept short, because socket paths are.
	Dir string
	// Nodes are their names: lower-case letters and digits, at most 4.
	Nodes []string
}

// unique names this cluster on the machine: four digits from the directory.
func (o Options) unique() string {
	sum := sha256.Sum256([]byte(o.Dir))
	return hex.EncodeToString(sum[:2])
}

// Cluster is a running Kubernetes.
type Cluster struct {
	// Dir is Options.Dir. Logs are its files *.log and, of a node, <node>/*.log.
	Dir string
	// Nodes are in the order of Options.Nodes.
	Nodes []*Node
	// Kubeconfig is a file with which kubectl may do everything.
	Kubeconfig string
	// Environment is added to kubectl's ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false").
	Environment []string

	fabric   *fabric
	registry *images.Registry
	// client may do everything, at the API server and at the kubelets.
	client  *http.Client
	control []*process
}

// Start returns when every node is ready and has routes to the others. After an error nothing is left.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := &Cluster{Dir: o.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if c.fabric, err = newFabric(ctx, "fc"+o.unique()); err != nil {
		return nil, err
	}
	if c.registry, err = images.ServeAt(ctx, c.fabric.host.String()+":0"); err != nil {
		return nil, err
	}
	certs := filepath.Join(o.Dir, "certs.d")
	if err := c.registry.Mirrors(certs); err != nil {
		return nil, err
	}
	a, err := newAuthority(filepath.Join(o.Dir, "pki"))
	if err != nil {
		return nil, err
	}
	if err := c.startControl(ctx, a); err != nil {
		return nil, err
	}
	for i, name := range o.Nodes {
		n := &Node{Name: name, cluster: c, dir: filepath.Join(o.Dir, name), addresses: c.fabric.node(i), cgroup: "/fc" + o.unique() + name}
		c.Nodes = append(c.Nodes, n)
		if err := n.start(ctx, a, certs); err != nil {
			return nil, fmt.Errorf("start node %s: %w", name, err)
		}
	}
	return c, c.join(ctx)
}

// join waits for the nodes and routes each to the pods of the others, as a cloud's route controller would.
func (c *Cluster) join(ctx context.Context) error {
	// Without it no pod is admitted.
	if _, err := c.Kubectl(ctx, "wait", "--for=create", "serviceaccount/default", "--timeout=120s"); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		for _, what := range []string{"create", "jsonpath={.spec.podCIDR}", "condition=Ready"} {
			if _, err := c.Kubectl(ctx, "wait", "--for="+what, "node/"+n.Name, "--timeout=120s"); err != nil {
				return err
			}
		}
		said, err := c.Kubectl(ctx, "get", "node", n.Name, "-o", "jsonpath={.spec.podCIDRs[*]}")
		if err != nil {
			return err
		}
		for _, cidr := range strings.Fields(said) {
			p, err := netip.ParsePrefix(cidr)
			if err != nil {
				return fmt.Errorf("pod CIDR of node %s: %w", n.Name, err)
			}
			n.PodCIDRs = append(n.PodCIDRs, p)
		}
	}
	for _, n := range c.Nodes {
		for _, other := range c.Nodes {
			if other == n {
				continue
			}
			if err := n.route(ctx, other); err != nil {
				return err
			}
		}
	}
	return nil
}

// Scope is where the cluster leaves traces on the host, for package machine: once it is stopped, nothing but files.
func (c *Cluster) Scope() machine.Scope {
	s := machine.Scope{Dirs: []string{c.Dir}, Links: []string{c.fabric.bridge}}
	for _, n := range c.Nodes {
		s.Cgroups = append(append(s.Cgroups, n.cgroup), n.Runtime.Scope().Cgroups...)
	}
	return s
}

// Stop ends everything, the nodes first, and removes what they had on the machine but for files. Pods should be gone by then: those that are not are
// removed through CRI.
func (c *Cluster) Stop(ctx context.Context) error {
	var failed []error
	for _, n := range slices.Backward(c.Nodes) {
		failed = append(failed, n.stop(ctx))
	}
	for _, p := range slices.Backward(c.control) {
		p.end()
	}
	if c.registry != nil {
		failed = append(failed, c.registry.Close())
	}
	if c.fabric != nil {
		failed = append(failed, c.fabric.remove(ctx))
	}
	return errors.Join(failed...)
}
