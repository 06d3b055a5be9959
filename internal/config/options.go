package config

import (
	"strings"
)

// Kind is what sort of value an option takes; it decides how a value is checked.
type Kind string

// The kinds of value.
const (
	Dir     Kind = "directory"
	File    Kind = "file"
	Address Kind = "address"
	Link    Kind = "link"
	CIDR    Kind = "CIDR"
	CIDRs   Kind = "CIDRs"
	Cgroup  Kind = "cgroup path"
	Level   Kind = "level"
	Size    Kind = "size"
	Number  Kind = "number"
)

// Option is one row of the table.
type Option struct {
	// Flag is the name on the command line; the file's key is the same with underscores, see [Option.Key].
	Flag string
	Kind Kind
	// Default is the value when none is given; "" where Explained says how one is found.
	Default string
	// Explained is said in place of Default where the default depends on something.
	Explained string
	// Description is one line for a person who has to decide on a value.
	Description string
	// FlagOnly options cannot be in the file.
	FlagOnly bool

	field func(*Config) *string
}

// Key is the option's name in the configuration file.
func (o Option) Key() string { return strings.ReplaceAll(o.Flag, "-", "_") }

// Options returns the table, in the order a person reads it.
func Options() []Option {
	return []Option{
		{Flag: "config", Kind: File, Explained: DefaultFile + " if it exists", FlagOnly: true,
			Description: "configuration file (TOML)",
			field:       func(c *Config) *string { return &c.File }},
		{Flag: "root", Kind: Dir, Default: "/var/lib/fermata",
			Description: "images and records of pods; outlives a reboot",
			field:       func(c *Config) *string { return &c.Root }},
		{Flag: "state", Kind: Dir, Default: "/run/fermata",
			Description: "sockets, FIFOs and exit records; ends with the boot, so a tmpfs",
			field:       func(c *Config) *string { return &c.State }},
		{Flag: "listen", Kind: Address, Explained: "unix://<state>/fermata.sock",
			Description: "socket to serve CRI on, for the kubelet, crictl and this program",
			field:       func(c *Config) *string { return &c.Listen }},
		{Flag: "registries", Kind: Dir, Explained: "/etc/fermata/certs.d, else /etc/containerd/certs.d",
			Description: "registry settings as <host>/hosts.toml",
			field:       func(c *Config) *string { return &c.Registries }},
		{Flag: "bridge", Kind: Link, Default: "fermata0",
			Description: "bridge of the built-in network",
			field:       func(c *Config) *string { return &c.Bridge }},
		{Flag: "subnet", Kind: CIDR, Explained: "the kubelet's pod CIDR, else a free /16",
			Description: "IPv4 range of the built-in network",
			field:       func(c *Config) *string { return &c.Subnet }},
		{Flag: "cluster-cidr", Kind: CIDRs, Explained: "none: pods of other nodes are as the rest of the world",
			Description: "networks of the whole cluster's pods, as kube-controller-manager has them: pods there are reached unmasqueraded, and the node waits for its part",
			field:       func(c *Config) *string { return &c.ClusterCIDR }},
		{Flag: "cgroup-parent", Kind: Cgroup, Default: "/fermata",
			Description: "cgroup for pods that name none",
			field:       func(c *Config) *string { return &c.CgroupParent }},
		{Flag: "cni-conf-dir", Kind: Dir, Default: "/etc/cni/net.d",
			Description: "CNI configuration; a network found here is used instead of the bridge",
			field:       func(c *Config) *string { return &c.CNIConfDir }},
		{Flag: "cni-bin-dir", Kind: Dir, Default: "/opt/cni/bin",
			Description: "CNI plugins",
			field:       func(c *Config) *string { return &c.CNIBinDir }},
		{Flag: "cni-cache-dir", Kind: Dir, Explained: "<root>/cni",
			Description: "what CNI plugins answered",
			field:       func(c *Config) *string { return &c.CNICacheDir }},
		{Flag: "cadvisor-socket", Kind: Address, Explained: "none",
			Description: "socket to answer cAdvisor on; the kubelet's asks unix:///run/containerd/containerd.sock only",
			field:       func(c *Config) *string { return &c.CadvisorSocket }},
		{Flag: "container-log-max-size", Kind: Size, Explained: "none: the kubelet rotates",
			Description: "length over which a container's log is rotated as it is written, such as 10Mi",
			field:       func(c *Config) *string { return &c.ContainerLogMaxSize }},
		{Flag: "container-log-max-files", Kind: Number, Default: "3",
			Description: "files of a container's log where it has a largest size, the current one included",
			field:       func(c *Config) *string { return &c.ContainerLogMaxFiles }},
		{Flag: "container-log-rate", Kind: Size, Explained: "none",
			Description: "bytes a second that a container's log may grow by, such as 1Mi; what comes faster is dropped, counted and marked",
			field:       func(c *Config) *string { return &c.ContainerLogRate }},
		{Flag: "log-level", Kind: Level, Default: "info",
			Description: "what the daemon says: " + strings.Join(Levels(), ", "),
			field:       func(c *Config) *string { return &c.LogLevel }},
	}
}

// Levels lists the log levels, the most talkative first.
func Levels() []string { return []string{"debug", "info", "warn", "error"} }
