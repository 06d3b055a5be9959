package machine

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/moby/sys/mountinfo"
)

// mounts finds mounts of the host's mount namespace and of the first process's, if that is another; binds of namespaces among them.
func (s *Snapshot) mounts() error {
	for _, pid := range []string{"thread-self", "1"} {
		file, err := os.Open("/proc/" + pid + "/mountinfo")
		if err != nil {
			return err
		}
		mounts, err := mountinfo.GetMountsFromReader(file, nil)
		file.Close()
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if !s.scope.All && !s.ownsMount(m) {
				continue
			}
			key := fmt.Sprintf("mount %d at %s", m.ID, m.Mountpoint)
			s.things[key] = fmt.Sprintf("mount: %s on %s (%s, root %s)", m.Source, m.Mountpoint, m.FSType, m.Root)
		}
	}
	return nil
}

// ownsMount reports whether a mount is the test's: it is at, or shows, one of its directories, or (as a namespace bound in
// /run/netns) its name says so.
func (s *Snapshot) ownsMount(m *mountinfo.Info) bool {
	for _, dir := range s.scope.Dirs {
		if below(m.Mountpoint, dir) || below(m.Root, dir) || strings.Contains(m.VFSOptions, dir+"/") {
			return true
		}
	}
	for _, name := range append(s.scope.Links, s.scope.Tables...) {
		if strings.HasPrefix(filepath.Base(m.Mountpoint), name) {
			return true
		}
	}
	return false
}

// links finds network links of the host.
func (s *Snapshot) links() error {
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return err
	}
	for _, link := range links {
		name := link.Name()
		master, _ := os.Readlink("/sys/class/net/" + name + "/master")
		index, err := os.ReadFile("/sys/class/net/" + name + "/ifindex")
		if err != nil || !s.scope.All && !prefixed(name, s.scope.Links) && !prefixed(filepath.Base(master), s.scope.Links) {
			continue
		}
		what := "link: " + name
		if master != "" {
			what += " (enslaved to " + filepath.Base(master) + ")"
		}
		s.things["link "+name+" "+string(index)] = what
	}
	return nil
}

// cgroups finds cgroups in every hierarchy that is mounted.
func (s *Snapshot) cgroups() error {
	hierarchies, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		roots := s.scope.Cgroups
		if s.scope.All {
			roots = []string{"/"}
		}
		for _, root := range roots {
			err := walk(filepath.Join(h.Mountpoint, root), func(path string, d fs.DirEntry) {
				if d.IsDir() && path != h.Mountpoint {
					procs, _ := os.ReadFile(path + "/cgroup.procs")
					s.things["cgroup "+path] = fmt.Sprintf("cgroup: %s (%d processes)", path, strings.Count(string(procs), "\n"))
				}
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// tables finds nftables tables, and their chains, rules and elements.
func (s *Snapshot) tables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	for _, t := range tables {
		if !s.scope.All && !prefixed(t.Name, s.scope.Tables) {
			continue
		}
		name := fmt.Sprintf("%d %s", t.Family, t.Name)
		s.things["nft "+name] = "nft table: " + t.Name
		for _, c := range chains {
			if c.Table.Name == t.Name && c.Table.Family == t.Family {
				rules, _ := conn.GetRules(t, c)
				s.things[fmt.Sprintf("nft %s chain %s", name, c.Name)] = fmt.Sprintf("nft chain: %s %s", t.Name, c.Name)
				for _, r := range rules {
					s.things[fmt.Sprintf("nft %s chain %s rule %d", name, c.Name, r.Handle)] = fmt.Sprintf("nft rule: %s %s handle %d", t.Name, c.Name, r.Handle)
				}
			}
		}
		s.elements(conn, t, name)
	}
	return nil
}

func (s *Snapshot) elements(conn *nftables.Conn, t *nftables.Table, name string) {
	sets, err := conn.GetSets(t)
	if err != nil {
		return // the table went meanwhile
	}
	for _, set := range sets {
		if set.Anonymous {
			continue // part of a rule
		}
		s.things[fmt.Sprintf("nft %s set %s", name, set.Name)] = fmt.Sprintf("nft set: %s %s", t.Name, set.Name)
		elements, _ := conn.GetSetElements(set)
		for _, e := range elements {
			s.things[fmt.Sprintf("nft %s set %s %x", name, set.Name, e.Key)] = fmt.Sprintf("nft element: %s %s %x : %x", t.Name, set.Name, e.Key, e.Val)
		}
	}
}

// files lists the trees of the scope: leases, FIFOs, sockets, records, directories.
func (s *Snapshot) files() error {
	for _, root := range s.scope.Dirs {
		err := walk(root, func(path string, d fs.DirEntry) {
			kind := "file"
			switch {
			case d.IsDir():
				kind = "directory"
			case d.Type()&fs.ModeNamedPipe != 0:
				kind = "FIFO"
			case d.Type()&fs.ModeSocket != 0:
				kind = "socket"
			}
			for _, except := range s.scope.Except {
				if path != except && below(path, except) {
					return
				}
			}
			s.things[kind+" "+path] = kind + ": " + path
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// walk visits a tree that may change under it or not exist.
func walk(root string, visit func(string, fs.DirEntry)) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		}
		visit(path, d)
		return nil
	})
}

func prefixed(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if p != "" && strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
