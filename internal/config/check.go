package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fermata/internal/errs"
	"fermata/internal/suggest"
)

// maxLink is IFNAMSIZ without its NUL (linux/if.h).
const maxLink = 15

// check looks at every value that somebody set; an empty one is refused where the table has a default.
func check(cfg *Config, from origin) error {
	for _, o := range Options() {
		value := *o.field(cfg)
		if value == "" && o.Explained != "" {
			continue
		}
		if err := checkValue(o.Kind, value); err != nil {
			return errs.New(errs.InvalidArgument, "%s: %s %q: %w", from[o.Flag], o.Kind, value, err)
		}
	}
	return nil
}

func checkValue(kind Kind, value string) error {
	if strings.ContainsAny(value, "\x00\n") {
		return errors.New("has a NUL or a line break in it")
	}
	switch kind {
	case Dir:
		return checkDir(value)
	case Address:
		path, ok := strings.CutPrefix(value, "unix://")
		if !ok {
			return errors.New("an address reads unix:///path/to/socket")
		}
		return checkDir(path)
	case Link:
		return checkLink(value)
	case CIDR:
		return checkSubnet(value)
	case CIDRs:
		return checkNetworks(value)
	case Cgroup:
		if !filepath.IsAbs(value) || filepath.Clean(value) != value || value == "/" {
			return errors.New("a cgroup reads /name or /name/name, from the cgroup root")
		}
	case Size:
		_, err := ParseSize(value)
		return err
	case Number:
		if n, err := strconv.Atoi(value); err != nil || n < 1 {
			return errors.New("not a number from 1 on")
		}
	case Level:
		if !slices.Contains(Levels(), value) {
			return fmt.Errorf("not one of %s%s", strings.Join(Levels(), ", "), suggest.DidYouMean(value, Levels()))
		}
	}
	return nil
}

func checkDir(value string) error {
	if !filepath.IsAbs(value) {
		return errors.New("must be an absolute path, because the daemon may start anywhere")
	}
	if filepath.Clean(value) == "/" {
		return errors.New("must not be / itself")
	}
	return nil
}

// checkLink follows dev_valid_name in the kernel's net/core/dev.c.
func checkLink(value string) error {
	switch {
	case len(value) == 0 || len(value) > maxLink:
		return fmt.Errorf("a link's name has 1 to %d bytes", maxLink)
	case value == "." || value == ".." || strings.ContainsAny(value, "/: \t\v\f\r%"):
		return errors.New("a link's name has no slash, colon, space or percent sign")
	}
	return nil
}

// checkNetworks follows kube-controller-manager, which allows one network of each family.
func checkNetworks(value string) error {
	families := map[bool]bool{}
	for part := range strings.SplitSeq(value, ",") {
		p, err := netip.ParsePrefix(part)
		switch {
		case err != nil:
			return errors.New("networks read 10.244.0.0/16 or 10.244.0.0/16,fd10::/56")
		case p.Masked() != p:
			return fmt.Errorf("has bits set after its prefix: %s is meant?", p.Masked())
		case families[p.Addr().Is4()]:
			return errors.New("one network of each family")
		}
		families[p.Addr().Is4()] = true
	}
	return nil
}

func checkSubnet(value string) error {
	p, err := netip.ParsePrefix(value)
	switch {
	case err != nil:
		return errors.New("an IPv4 range reads 10.88.0.0/16")
	case !p.Addr().Is4():
		return errors.New("must be an IPv4 range")
	case p.Masked() != p:
		return fmt.Errorf("has bits set after its prefix: %s is meant?", p.Masked())
	case p.Bits() < 8 || p.Bits() > 29:
		return errors.New("must leave room for pods: /8 to /29")
	}
	return nil
}
