// Package lease remembers which pod has which addresses, in memory and as one file a pod.
//
// It promises that no address has two owners, that a lease is on disk before its owner is told of it, that the files alone tell
// everything after a crash, and that an address is given again as late as possible: in rounds, also over restarts, because peers
// and name servers remember addresses of pods that are gone.
//
// Networks and their choice belong to package builtin; a lease says only what was given.
package lease

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/network/endpoint"
)

// Kinds of records, and the ends of their names.
const (
	kind     = "lease"
	suffix   = ".json"
	nextKind = "next lease"
	nextName = "next.json"
)

// Record is what a pod has, one file leases/<sandbox>.json.
type Record struct {
	durable.Newer

	SandboxID string `json:"sandbox"`
	// Addresses have the length of their network, the pod's primary address first; Gateways are in the same order.
	Addresses []netip.Prefix `json:"addresses"`
	Gateways  []netip.Addr   `json:"gateways"`
	// HostInterface is the host's end of the pod's link.
	HostInterface string `json:"host_interface"`
	// Ports are at the host.
	Ports []endpoint.PortMapping `json:"ports,omitempty"`

	PodName      string    `json:"pod_name,omitempty"`
	PodNamespace string    `json:"pod_namespace,omitempty"`
	PodUID       string    `json:"pod_uid,omitempty"`
	Created      time.Time `json:"created"`
}

// IPs are the addresses without their networks.
func (r *Record) IPs() []netip.Addr {
	all := make([]netip.Addr, len(r.Addresses))
	for i, p := range r.Addresses {
		all[i] = p.Addr()
	}
	return all
}

// Store is all leases. It is safe for concurrent use, but for two calls about one sandbox at a time, which its user keeps apart.
type Store struct {
	dir string

	mu      sync.Mutex
	ranges  []netip.Prefix
	leases  map[string]*Record
	taken   map[netip.Addr]string
	next    uint64
	written uint64 // the file's next: everything below may have been given
}

// Open reads the leases below dir, which it makes. Files that cannot be read are set aside and named in broken.
func Open(dir string) (s *Store, broken []string, err error) {
	s = &Store{dir: dir, leases: map[string]*Record{}, taken: map[netip.Addr]string{}}
	if err := os.MkdirAll(s.leasesDir(), 0o700); err != nil {
		return nil, nil, err
	}
	for _, d := range []string{dir, s.leasesDir()} { // a crash came between writing and renaming
		if err := durable.Sweep(d); err != nil {
			return nil, nil, err
		}
	}
	files, err := os.ReadDir(s.leasesDir())
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		path := filepath.Join(s.leasesDir(), f.Name())
		if !durable.IsRecord(f.Name()) || !strings.HasSuffix(f.Name(), suffix) {
			continue
		}
		if err := s.load(path); err != nil {
			broken = append(broken, err.Error())
		}
	}
	return s, broken, nil
}

func (s *Store) leasesDir() string { return filepath.Join(s.dir, "leases") }

func (s *Store) path(id string) string { return filepath.Join(s.leasesDir(), id+suffix) }

func (s *Store) load(path string) error {
	var r Record
	if err := durable.Read(path, kind, &r); err != nil {
		return err
	}
	if s.path(r.SandboxID) != path || endpoint.CheckID(r.SandboxID) != nil || len(r.Addresses) != len(r.Gateways) {
		aside, err := durable.Quarantine(path)
		return errors.Join(fmt.Errorf("read lease %s: does not fit its name (set aside as %s)", path, aside), err)
	}
	for _, ip := range r.IPs() {
		if other, twice := s.taken[ip]; twice {
			aside, err := durable.Quarantine(path)
			return errors.Join(fmt.Errorf("read lease %s: %s has %s already (set aside as %s)", path, other, ip, aside), err)
		}
	}
	s.keep(&r)
	return nil
}

func (s *Store) keep(r *Record) {
	s.leases[r.SandboxID] = r
	for _, ip := range r.IPs() {
		s.taken[ip] = r.SandboxID
	}
}

// position is the file that says where the round is.
type position struct {
	Ranges []netip.Prefix `json:"ranges"`
	Next   uint64         `json:"next"`
}

// ahead is how many addresses a restart may skip, so that the position need not be written for each.
const ahead = 64

// SetRanges says which networks addresses are given of from now on, one a family, the primary one first.
func (s *Store) SetRanges(ranges []netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.ranges, ranges) {
		return nil
	}
	var p position
	if err := durable.Read(filepath.Join(s.dir, nextName), nextKind, &p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p = position{} // the round begins anew; the file was set aside or is written over
	}
	s.ranges, s.next = slices.Clone(ranges), 0
	if slices.Equal(p.Ranges, ranges) {
		s.next = p.Next
	}
	s.written = s.next
	return nil
}

// Size is how many pods the ranges have addresses for, and how many are leased.
func (s *Store) Size() (size, used int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(Count(s.ranges)), len(s.leases)
}

// most bounds a round: a /64 has more addresses than a node has pods.
const most = 1 << 20

// Count is how many pods the smallest of the ranges has room for: without the network's own address, the gateway's, and IPv4's broadcast.
func Count(ranges []netip.Prefix) uint64 {
	count := uint64(most)
	for _, r := range ranges {
		bits := r.Addr().BitLen() - r.Bits()
		if bits > 20 {
			continue
		}
		n, reserved := uint64(1)<<bits, uint64(2)
		if r.Addr().Is4() {
			reserved = 3
		}
		count = min(count, n-min(n, reserved))
	}
	if len(ranges) == 0 {
		return 0
	}
	return count
}

// Gateway is a range's first address.
func Gateway(r netip.Prefix) netip.Addr { return nth(r, 1) }

// nth is the address n after the network's own.
func nth(r netip.Prefix, n uint64) netip.Addr {
	b := r.Masked().Addr().AsSlice()
	for i := len(b) - 1; n > 0 && i >= 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Take gives r's sandbox addresses, in memory: [Store.Save] must follow before anybody uses them, or [Store.Drop].
func (s *Store) Take(r *Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.leases[r.SandboxID]; known {
		return errs.New(errs.AlreadyExists, "lease addresses for %s: has some", r.SandboxID)
	}
	count := Count(s.ranges)
	for tried := uint64(0); tried < count; tried++ {
		n := (s.next + tried) % count
		if !s.free(n + 2) {
			continue
		}
		r.Addresses, r.Gateways = nil, nil
		for _, p := range s.ranges {
			r.Addresses = append(r.Addresses, netip.PrefixFrom(nth(p, n+2), p.Bits()))
			r.Gateways = append(r.Gateways, Gateway(p))
		}
		s.next = (n + 1) % count
		if err := s.remember(tried, count); err != nil {
			return err
		}
		s.keep(r)
		return nil
	}
	return errs.Blame(errs.New(errs.ResourceExhausted, "lease addresses for %s: none left, all %d of %v are leased to %d pods", r.SandboxID, count, s.ranges, len(s.leases)), "address range", fmt.Sprint(s.ranges))
}

func (s *Store) free(n uint64) bool {
	for _, p := range s.ranges {
		if _, taken := s.taken[nth(p, n)]; taken {
			return false
		}
	}
	return true
}

// remember writes where the round is, before anything beyond what is written is given.
func (s *Store) remember(skipped, count uint64) error {
	left := (s.written + count - s.next) % count // how far what is written is ahead
	if left != 0 && left <= ahead && skipped == 0 {
		return nil
	}
	to := (s.next + min(ahead, count-1)) % count
	err := durable.Write(filepath.Join(s.dir, nextName), nextKind, &position{Ranges: s.ranges, Next: to}, durable.Options{})
	if err == nil {
		s.written = to
	}
	return err
}

// Save writes a lease that Take or Get gave.
func (s *Store) Save(r *Record) error {
	return durable.Write(s.path(r.SandboxID), kind, r, durable.Options{})
}

// Get finds a sandbox's lease; nil if it has none.
func (s *Store) Get(id string) *Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[id]
}

// Drop frees a sandbox's addresses: the file first, so that they are not given away while it claims them. Unknown is fine.
func (s *Store) Drop(id string) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop lease of %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.leases[id]; r != nil {
		for _, ip := range r.IPs() {
			delete(s.taken, ip)
		}
		delete(s.leases, id)
	}
	return nil
}

// All lists the leases, the oldest first.
func (s *Store) All() []*Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.leases), func(a, b *Record) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.SandboxID, b.SandboxID))
	})
}
