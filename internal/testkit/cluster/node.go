package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"fermata/internal/linux"
	"fermata/internal/testkit/kubelet"
	"fermata/internal/testkit/node"
)

// Node is a kubelet with its fermata in namespaces of their own.
type Node struct {
	// Name is the node's in the cluster.
	Name string
	// PodCIDRs are what the controller manager gave it, IPv4 first.
	PodCIDRs []netip.Prefix
	// Kubelet is its kubelet, and Runtime its fermata. Its socket is reached from anywhere on the machine.
	Kubelet *kubelet.Kubelet
	Runtime *node.Node

	cluster *Cluster
	dir     string
	// addresses are the node's, IPv4 first.
	addresses []netip.Addr
	// cgroup is, below each hierarchy's root, what the kubelet takes for the machine's.
	cgroup string
	holder *process
}

// own gives the node, in a mount namespace of its own: a /var, where the kubelet has directories by fixed names (device plugins, links to logs); a
// /sys that shows its network's links, with the machine's cgroups; a host name. Then it says so and stays, to keep the namespaces.
const own = `set -e
cd "$1"
mkdir -p var/lib var/log var/tmp cgroup
ln -sfn /run var/run
mount --bind var /var
mount --rbind /sys/fs/cgroup cgroup
umount -l /sys
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount --move cgroup /sys/fs/cgroup
mount --make-rshared /
echo "$2" > /proc/sys/kernel/hostname
touch held
exec sleep infinity`

// enter is a command inside the node's namespaces.
func (n *Node) enter(argv ...string) []string {
	pid := strconv.Itoa(n.holder.cmd.Process.Pid)
	return append([]string{"nsenter", "--net", "--mount", "--uts", "--target", pid, "--"}, argv...)
}

// start makes the namespaces, and in them fermata and the kubelet. It does not wait for the node to be ready.
func (n *Node) start(ctx context.Context, a *authority, registries string) (err error) {
	n.holder, err = begin(n.dir, "holder", "unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", own, "own", n.dir, n.Name)
	if err != nil {
		return err
	}
	held := func(context.Context) error { _, err := os.Stat(filepath.Join(n.dir, "held")); return err }
	if err := n.holder.until(ctx, held); err != nil {
		return err
	}
	if err := n.cluster.fabric.plug(ctx, n.holder.cmd.Process.Pid, n.Name, n.addresses); err != nil {
		return err
	}
	dir := filepath.Join(n.dir, "f")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	runtime, err := node.Fermata(ctx, node.Options{Dir: dir, Registries: registries, Name: n.Name, ClusterCIDR: podNetwork, Enter: n.enter()})
	if err != nil {
		return err
	}
	n.Runtime = runtime
	return n.startKubelet(ctx, a)
}

func (n *Node) startKubelet(ctx context.Context, a *authority) error {
	serving, err := a.issue("kubelet-"+n.Name, "system:node:"+n.Name, []string{"system:nodes"}, n.addresses...)
	if err != nil {
		return err
	}
	config, err := a.kubeconfig("node-"+n.Name, n.cluster.server(), "system:node:"+n.Name, "system:nodes")
	if err != nil {
		return err
	}
	n.Kubelet, err = kubelet.Start(ctx, kubelet.Options{
		Dir: filepath.Join(n.dir, "k"), Endpoint: n.Runtime.Endpoint, Cgroup: n.cgroup, Name: n.Name, Address: n.addresses[0].String(), Port: 10250,
		Kubeconfig: config, Client: n.cluster.client, Wrapper: n.enter(),
		Flags: []string{"--node-ip", fmt.Sprintf("%s,%s", n.addresses[0], n.addresses[1])}, Config: map[string]any{
			"tlsCertFile": serving.certificate, "tlsPrivateKeyFile": serving.key,
			"authentication": map[string]any{
				"x509": map[string]any{"clientCAFile": a.bundle()}, "anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
			},
			"authorization": map[string]any{"mode": "Webhook"},
		},
	})
	return err
}

// Addresses are the node's own, IPv4 first.
func (n *Node) Addresses() []netip.Addr { return n.addresses }

// route sends what is for another node's pods there.
func (n *Node) route(ctx context.Context, to *Node) error {
	for _, cidr := range to.PodCIDRs {
		gateway := to.addresses[0]
		if cidr.Addr().Is6() {
			gateway = to.addresses[1]
		}
		if err := run(ctx, n.enter("ip", "route", "replace", cidr.String(), "via", gateway.String())...); err != nil {
			return err
		}
	}
	return nil
}

// Inside runs do on a thread in the node's network and mount namespaces.
func (n *Node) Inside(do func() error) error {
	return linux.OnThrowAwayThread(func() error {
		holder, err := linux.OpenPidfd(n.holder.cmd.Process.Pid)
		if err != nil {
			return err
		}
		defer holder.Close()
		if err := holder.Setns(linux.CloneNewNet | linux.CloneNewMount); err != nil {
			return err
		}
		return do()
	})
}

// stop ends the kubelet, then what is left of its pods with fermata, then the namespaces.
func (n *Node) stop(ctx context.Context) error {
	var failed []error
	if n.Kubelet != nil {
		failed = append(failed, n.Kubelet.Stop())
	}
	if n.Runtime != nil {
		failed = append(failed, n.Runtime.Stop(ctx))
	}
	n.cluster.fabric.unplug(ctx, n.Name)
	if n.holder != nil {
		n.holder.end()
	}
	if n.Kubelet != nil {
		failed = append(failed, n.Kubelet.Remove())
	}
	return errors.Join(failed...)
}
