// Package config holds what can be set: one table of options ([Options]) from which the defaults, the TOML file, the flags, the
// usage text and the `fermata config explain` table all follow. It promises that a start with a misspelt or impossible setting
// stops with its file, line and the nearest key there is, and never runs with a setting other than the one written.
//
// What an option does belongs to the package that uses it; this one only reads and checks.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
)

// MaxSocketPath is the longest path of a unix socket in bytes: sun_path is 108 bytes and ends in NUL (unix(7)).
const MaxSocketPath = 107

// DefaultFile is read when --config is not given; it need not exist.
const DefaultFile = "/etc/fermata/config.toml"

// Config is every setting, checked and with its default filled in. Make one with [Load].
type Config struct {
	// File is the configuration file that was read; "" if none.
	File string

	// Root holds what outlives a reboot: images, records of pods.
	Root string
	// State holds what ends with the boot: sockets, FIFOs, exit records. On a tmpfs.
	State string
	// Listen is the address of the CRI socket, "unix:///path". See [Config.Socket].
	Listen string
	// Registries is a directory of <host>/hosts.toml; it need not exist.
	Registries string
	// Bridge is the name of the built-in network's bridge, at most 15 bytes.
	Bridge string
	// Subnet is the built-in network's IPv4 range in CIDR form; "" = a /16 that overlaps no route, or the kubelet's pod CIDR.
	Subnet string
	// ClusterCIDR are the networks of the whole cluster's pods, one or one of each family with a comma between; "" = no cluster, or one whose
	// network is somebody else's.
	ClusterCIDR string
	// CgroupParent is where pods without a parent of their own go, below the cgroup root.
	CgroupParent string
	// CNIConfDir, CNIBinDir (with colons between several) and CNICacheDir are for CNI plugins, used once CNIConfDir has a network.
	CNIConfDir, CNIBinDir, CNICacheDir string
	// CadvisorSocket is the address of the socket that cAdvisor asks, "unix:///path"; "" = none.
	CadvisorSocket string
	// ContainerLogMaxSize and ContainerLogRate are sizes ([ParseSize]), ContainerLogMaxFiles is a number; "" is no limit.
	ContainerLogMaxSize, ContainerLogMaxFiles, ContainerLogRate string
	// LogLevel is one of debug, info, warn, error.
	LogLevel string

	from origin
}

// Socket returns the path of the CRI socket.
func (c *Config) Socket() string { return strings.TrimPrefix(c.Listen, "unix://") }

// CadvisorPath returns the path of the socket for cAdvisor, "" if there is to be none.
func (c *Config) CadvisorPath() string { return strings.TrimPrefix(c.CadvisorSocket, "unix://") }

// KeeperSocket returns the path of the keeper's socket.
func (c *Config) KeeperSocket() string { return filepath.Join(c.State, "keeper.sock") }

// Instance tells this fermata from others on the machine: 8 hex digits of a hash of Root. Names on the machine that cannot hold
// a path (nftables tables, links) derive from it.
func (c *Config) Instance() string {
	sum := sha256.Sum256([]byte(c.Root))
	return hex.EncodeToString(sum[:4])
}
