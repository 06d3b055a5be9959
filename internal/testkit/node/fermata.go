package node

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"

	"fermata/internal/testkit/machine"
	"fermata/internal/testkit/tools"
)

// Binary names, in the environment, the fermata to start when Options do not.
const Binary = "FERMATA_TEST_BINARY"

// Fermata starts fermata's daemon.
func Fermata(ctx context.Context, o Options) (*Node, error) {
	if o.Binary == "" {
		o.Binary = os.Getenv(Binary)
	}
	if o.Binary == "" {
		root, err := tools.Root()
		if err != nil {
			return nil, err
		}
		o.Binary = filepath.Join(root, "bin/fermata")
	}
	name := o.unique()
	n := &Node{Kind: "fermata", Dir: o.Dir, Log: filepath.Join(o.Dir, "daemon.log"), Socket: filepath.Join(o.Dir, "s/fermata.sock")}
	n.Endpoint = "unix://" + n.Socket
	n.enter = o.Enter
	n.command = []string{
		o.Binary, "daemon", "--root", filepath.Join(o.Dir, "r"), "--state", filepath.Join(o.Dir, "s"), "--listen", n.Endpoint,
		"--bridge", "fm" + name, "--cgroup-parent", "/fermata-" + name, "--registries", o.Registries,
		"--cni-conf-dir", filepath.Join(o.Dir, "cni/conf"), "--cni-bin-dir", filepath.Join(o.Dir, "cni/bin"), "--log-level", "debug",
	}
	if o.ClusterCIDR != "" {
		n.command, n.clustered = append(n.command, "--cluster-cidr", o.ClusterCIDR), true
	}
	n.command = append(n.command, o.Args...)
	// An instance's names derive from its root, as in config.Config.Instance and network/builtin's linkPrefix.
	sum := sha256.Sum256([]byte(filepath.Join(o.Dir, "r")))
	instance := hex.EncodeToString(sum[:4])
	linkSum := sha256.Sum256([]byte(instance))
	links := "fm" + strings.ToLower(base32.StdEncoding.EncodeToString(linkSum[:]))[:4]
	n.scope = machine.Scope{
		Dirs: []string{filepath.Join(o.Dir, "r"), filepath.Join(o.Dir, "s")}, Except: []string{filepath.Join(o.Dir, "r/images")},
		Cgroups: []string{"/fermata-" + name}, Links: []string{links, "fm" + name}, Tables: []string{"fermata-" + instance},
	}
	n.cleanup = func(ctx context.Context) error {
		err := n.endProcesses()
		// What a node keeps for its next pods, and only uninstalling removes.
		exec.CommandContext(ctx, "ip", "link", "delete", "fm"+name).Run()
		err = errors.Join(err, deleteTable("fermata-"+instance))
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/fermata-" + name)
		for _, group := range append(groups, "/sys/fs/cgroup/fermata-"+name) {
			os.Remove(group) // refused when something was left in it: for machine to find
		}
		return err
	}
	return n, n.start(ctx)
}

func deleteTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Name == name {
			conn.DelTable(t)
		}
	}
	return conn.Flush()
}

func tableExists(name string) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTables()
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }), err
}
