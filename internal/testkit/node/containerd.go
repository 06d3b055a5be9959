package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/machine"
	"fermata/internal/testkit/tools"
)

// containerdConfig is the default but for places, the mirror, and what this machine lacks: without CAP_SYS_RESOURCE no
// oom_score_adj can be lowered.
const containerdConfig = `version = 4
root = '%[1]s/r'
state = '%[1]s/s'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '%[3]s'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '%[2]s'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  enable_criu = false
  disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['%[4]s']
  conf_dir = '%[1]s/cni'
[plugins.'io.containerd.internal.v1.opt']
  path = '%[1]s/opt'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.server.v1.grpc']
  address = '%[1]s/containerd.sock'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '%[1]s/containerd.sock.ttrpc'
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '%[1]s/shims'
[plugins.'io.containerd.transfer.v1.local']
  config_path = '%[2]s'
`

// conflist is the network most nodes with containerd have: bridge, host-local, port mapping; by nftables, as fermata's.
const conflist = `{"cniVersion": "1.0.0", "name": "%[1]s", "plugins": [
  {"type": "bridge", "bridge": "%[1]s", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.214.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "%[2]s/leases"}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"}]}
`

// Containerd starts containerd 2.4 with runc and the CNI plugins.
func Containerd(ctx context.Context, o Options) (*Node, error) {
	program, err := tools.Containerd(ctx)
	if err != nil {
		return nil, err
	}
	plugins, err := tools.Plugins(ctx)
	if err != nil {
		return nil, err
	}
	bridge := "cd" + o.unique()
	config := filepath.Join(o.Dir, "config.toml")
	err = errors.Join(
		os.MkdirAll(filepath.Join(o.Dir, "cni"), 0o755),
		os.WriteFile(filepath.Join(o.Dir, "cni/10-bridge.conflist"), fmt.Appendf(nil, conflist, bridge, o.Dir), 0o644),
		os.WriteFile(config, fmt.Appendf(nil, containerdConfig, o.Dir, o.Registries, images.Pause, plugins), 0o644),
	)
	if err != nil {
		return nil, err
	}
	n := &Node{Kind: "containerd", Dir: o.Dir, Log: filepath.Join(o.Dir, "daemon.log"), Socket: filepath.Join(o.Dir, "containerd.sock")}
	n.Endpoint = "unix://" + n.Socket
	n.command = []string{program, "--config", config}
	n.env = []string{"PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH")}
	n.scope = machine.Scope{
		Dirs: []string{o.Dir}, Except: []string{filepath.Join(o.Dir, "r/io.containerd.content.v1.content"), n.Log},
		Cgroups: []string{"/k8s.io"}, Links: []string{bridge},
	}
	putBack, err := hostOfPlugins()
	if err != nil {
		return nil, err
	}
	n.cleanup = func(ctx context.Context) error {
		err := n.endProcesses()
		exec.CommandContext(ctx, "ip", "link", "delete", bridge).Run() // absent when no pod was made
		return errors.Join(err, putBack())
	}
	return n, n.start(ctx)
}

// hostOfPlugins remembers what the CNI plugins change on the host and never take back, and returns what puts it back: forwarding, and the tables of
// masquerading and host ports, unless somebody had them before.
func hostOfPlugins() (putBack func() error, err error) {
	const forwarding = "/proc/sys/net/ipv4/ip_forward"
	before, err := os.ReadFile(forwarding)
	if err != nil {
		return nil, err
	}
	var made []string
	for _, table := range []string{"cni_plugins_masquerade", "cni_hostport"} {
		there, err := tableExists(table)
		if err != nil {
			return nil, err
		}
		if !there {
			made = append(made, table)
		}
	}
	return func() error {
		failed := []error{os.WriteFile(forwarding, before, 0o644)}
		for _, table := range made {
			failed = append(failed, deleteTable(table))
		}
		return errors.Join(failed...)
	}, nil
}
