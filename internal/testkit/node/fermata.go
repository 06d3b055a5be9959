package node

import (
	"context"
	"path/filepath"

	"fermata/internal/testkit/tools"
)

// Fermata starts fermata's daemon.
func Fermata(ctx context.Context, o Options) (*Node, error) {
	if o.Binary == "" {
		root, err := tools.Root()
		if err != nil {
			return nil, err
		}
		o.Binary = filepath.Join(root, "bin/fermata")
	}
	n := &Node{Kind: "fermata", Dir: o.Dir, Log: filepath.Join(o.Dir, "daemon.log"), Socket: filepath.Join(o.Dir, "s/fermata.sock")}
	n.Endpoint = "unix://" + n.Socket
	n.command = []string{
		o.Binary, "daemon", "--root", filepath.Join(o.Dir, "r"), "--state", filepath.Join(o.Dir, "s"), "--listen", n.Endpoint,
		"--bridge", "fm" + o.Name, "--cgroup-parent", "/fermata-" + o.Name, "--registries", o.Registries,
		"--cni-conf-dir", filepath.Join(o.Dir, "no-cni"), "--log-level", "debug",
	}
	n.cleanup = func(context.Context) error { return n.endProcesses() }
	return n, n.start(ctx)
}
