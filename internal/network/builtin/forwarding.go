package builtin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fermata/internal/linux"
)

// Settings of the kernel that have no netlink. Paths are below /proc/sys/net and mean the namespace of the thread that opens them.
const (
	sysctls     = "/proc/sys/net"
	forwarding4 = "ipv4/ip_forward"
	forwarding6 = "ipv6/conf/all/forwarding"
)

func readSysctl(path string) (string, error) {
	v, err := os.ReadFile(filepath.Join(sysctls, path))
	return strings.TrimSpace(string(v)), err
}

func writeSysctl(path, value string) error {
	f, err := linux.Open(filepath.Join(sysctls, path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(value))
	return errors.Join(err, f.Close())
}

// hasIPv6 says whether the host's namespace does IPv6 at all: a module that is not there, ipv6.disable=1, or disable_ipv6 for all.
func hasIPv6() (bool, error) {
	for _, which := range []string{"all", "default"} {
		v, err := readSysctl("ipv6/conf/" + which + "/disable_ipv6")
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if v != "0" {
			return false, nil
		}
	}
	return true, nil
}

// forward turns on the forwarding of packets where it is off, remembering that before doing it, and says whether it was. b.mu is held.
func (b *Bridge) forward() (changed bool, err error) {
	err = b.home.Visit(b.hostNS, func() error {
		four, err := readSysctl(forwarding4)
		if err != nil {
			return err
		}
		six := "1"
		if b.v6 {
			if six, err = readSysctl(forwarding6); err != nil {
				return err
			}
		}
		if four == "1" && six != "0" {
			return nil
		}
		changed = true
		var listening []string
		if six == "0" {
			if listening, err = b.advertised(); err != nil {
				return err
			}
		}
		b.settings.Forwarding4 = b.settings.Forwarding4 || four != "1"
		b.settings.Forwarding6 = b.settings.Forwarding6 || six == "0"
		b.settings.Accepting = append(b.settings.Accepting, listening...)
		slices.Sort(b.settings.Accepting)
		b.settings.Accepting = slices.Compact(b.settings.Accepting)
		if err := b.settings.save(b.options.Dir); err != nil {
			return fmt.Errorf("remember what forwarding was: %w", err)
		}
		for _, link := range listening {
			if err := writeSysctl("ipv6/conf/"+link+"/accept_ra", "2"); err != nil {
				return err
			}
		}
		if four != "1" {
			err = writeSysctl(forwarding4, "1")
		}
		if six == "0" {
			err = errors.Join(err, writeSysctl(forwarding6, "1"))
		}
		return err
	})
	if err != nil {
		return changed, fmt.Errorf("turn on forwarding: %w", err)
	}
	return changed, nil
}

// advertised lists interfaces with a route that a router advertisement made. A host that forwards ignores advertisements (and
// drops such default routes at once) unless accept_ra is 2: turning forwarding on would cut such a host from its network.
func (b *Bridge) advertised() ([]string, error) {
	routes, err := b.host.Routes()
	if err != nil {
		return nil, err
	}
	links, err := b.host.Links()
	if err != nil {
		return nil, err
	}
	learnt := map[int]bool{}
	for _, r := range routes {
		learnt[r.Link] = learnt[r.Link] || r.Learnt
	}
	var names []string
	for _, l := range links {
		if !learnt[l.Index] {
			continue
		}
		if v, err := readSysctl("ipv6/conf/" + l.Name + "/accept_ra"); err == nil && v == "1" {
			names = append(names, l.Name)
		}
	}
	return names, nil
}

// stopForwarding turns back what forward turned on, unless another instance lives on it.
func (b *Bridge) stopForwarding() error {
	others, err := b.otherInstances()
	if err != nil || others {
		return err
	}
	err = b.home.Visit(b.hostNS, func() error {
		var errs []error
		if b.settings.Forwarding4 {
			errs = append(errs, writeSysctl(forwarding4, "0"))
		}
		if b.settings.Forwarding6 {
			errs = append(errs, writeSysctl(forwarding6, "0"))
		}
		for _, link := range b.settings.Accepting {
			if err := writeSysctl("ipv6/conf/"+link+"/accept_ra", "1"); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("turn forwarding off again: %w", err)
	}
	b.settings.Forwarding4, b.settings.Forwarding6, b.settings.Accepting = false, false, nil
	return b.settings.save(b.options.Dir)
}

// otherInstances says whether another fermata has its table here.
func (b *Bridge) otherInstances() (bool, error) {
	names, err := b.table.Others()
	return len(names) != 0, err
}

// preparePod makes the settings of a pod's namespace that its interface is to be born with; call it inside. Failure (a read-only /proc/sys) is no
// reason to refuse the pod: addresses ask for no duplicate detection themselves, and without the other the pod is as with other runtimes.
func preparePod() {
	for _, setting := range []string{
		"ipv6/conf/default/accept_ra",  // a neighbour must not become its gateway, CVE-2020-10749
		"ipv6/conf/default/accept_dad", // the link-local address too is usable at once
	} {
		_ = writeSysctl(setting, "0")
	}
}
