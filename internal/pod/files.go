package pod

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// podFiles are the host paths of what every container of the pod sees in /etc.
func (m *Manager) podFiles(id string) spec.PodFiles {
	dir := m.podState(id)
	return spec.PodFiles{
		Hostname:   filepath.Join(dir, "hostname"),
		Hosts:      filepath.Join(dir, "hosts"),
		ResolvConf: filepath.Join(dir, "resolv.conf"),
	}
}

// writePodFiles makes the pod's hostname and resolv.conf, in memory, and its log directory, RPS-8 and RPS-9.
func (m *Manager) writePodFiles(id string, config *runtimeapi.PodSandboxConfig) error {
	files := m.podFiles(id)
	if err := os.MkdirAll(filepath.Dir(files.Hostname), 0o700); err != nil {
		return err
	}
	if err := writePodFile(files.Hostname, []byte(podHostname(config)+"\n"), config); err != nil {
		return err
	}
	resolv, err := resolvConf(config.GetDnsConfig())
	if err != nil {
		return err
	}
	if err := writePodFile(files.ResolvConf, resolv, config); err != nil {
		return err
	}
	if dir := config.GetLogDirectory(); dir != "" {
		return makeLogDirectory(dir)
	}
	return nil
}

// makeLogDirectory makes the pod's log directory, which may be there.
func makeLogDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("config.log_directory: %w", linux.Refused(err))
	}
	return nil
}

// writeHosts makes /etc/hosts, once the addresses are known. The kubelet mounts its own over it; everybody else gets one that works.
func (m *Manager) writeHosts(id string, config *runtimeapi.PodSandboxConfig, ips []netip.Addr) error {
	path := m.podFiles(id).Hosts
	if hostNetwork(config) {
		hosts, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		return writePodFile(path, hosts, config)
	}
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, podHostname(config))
	}
	return writePodFile(path, []byte(b.String()), config)
}

// writePodFile writes a file that the pod's root owns.
func writePodFile(path string, contents []byte, config *runtimeapi.PodSandboxConfig) error {
	if err := os.WriteFile(path, contents, 0o644); err != nil {
		return err
	}
	users, err := spec.PodUsers(config)
	if users == nil || err != nil {
		return err
	}
	uid, gid := users.Root()
	return os.Chown(path, int(uid), int(gid))
}

// checkDNS refuses what would be more than one word of a line of resolv.conf.
func checkDNS(dns *runtimeapi.DNSConfig) error {
	for field, words := range map[string][]string{"servers": dns.GetServers(), "searches": dns.GetSearches(), "options": dns.GetOptions()} {
		for i, w := range words {
			if strings.ContainsFunc(w, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
				return errs.New(errs.InvalidArgument, "run pod sandbox: config.dns_config.%s[%d]: %q is not one word", field, i, w)
			}
		}
	}
	return nil
}

// resolvConf is the file's text: the host's where the request says nothing.
func resolvConf(dns *runtimeapi.DNSConfig) ([]byte, error) {
	if dns == nil {
		b, err := os.ReadFile("/etc/resolv.conf")
		if os.IsNotExist(err) {
			return nil, nil
		}
		return b, err
	}
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, s := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return []byte(b.String()), nil
}

// podHostname is the pod's host name: as asked, else the host's with the host's network, else the pod's name.
func podHostname(config *runtimeapi.PodSandboxConfig) string {
	if h := config.GetHostname(); h != "" {
		return h
	}
	if hostNetwork(config) {
		if h, err := os.Hostname(); err == nil {
			return h
		}
	}
	name := config.GetMetadata().GetName()
	return strings.TrimRight(name[:min(len(name), maxHostname)], "-.")
}

// maxHostname is the kernel's limit, sethostname(2); Kubernetes cuts at 63.
const maxHostname = 63

func namespaces(config *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func hostNetwork(config *runtimeapi.PodSandboxConfig) bool {
	return namespaces(config).GetNetwork() == runtimeapi.NamespaceMode_NODE
}
