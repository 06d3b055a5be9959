package cgroup

import (
	"context"

	"fermata/internal/errs"
	"fermata/internal/linux"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Mode says which versions of control groups are mounted.
type Mode uint8

// The modes. Hybrid is v1 with a v2 hierarchy beside it, which may own controllers or none.
const (
	V1 Mode = iota + 1
	V2
	Hybrid
)

var errSkeleton = errs.New(errs.Unimplemented, "cgroup")

// Tree is the set of mounted hierarchies.
type Tree struct{}

// Group is one path in every hierarchy of a tree.
type Group struct{ path string }

// Join holds what a process needs to be born in a group.
type Join struct {
	// Dir is the group's directory in the cgroup2 hierarchy, for CLONE_INTO_CGROUP; nil on pure v1.
	Dir *linux.FD
	// Procs are cgroup.procs of the v1 hierarchies, opened for writing: the new process writes "0" to each.
	Procs []*linux.FD
}

// Close closes the descriptors. Safe on nil.
func (j *Join) Close() error {
	if j == nil {
		return nil
	}
	return linux.CloseAll(append(j.Procs, j.Dir)...)
}

// Open finds what is mounted on this machine.
func Open() (*Tree, error) { return nil, errSkeleton }

// OpenAt opens a tree whose hierarchies are below a directory (for tests).
func OpenAt(root string) (*Tree, error) { return nil, errSkeleton }

func (t *Tree) Close() error                         { return nil }
func (t *Tree) Mode() Mode                           { return 0 }
func (t *Tree) Controllers() []string                { return nil }
func (t *Tree) Missing() []string                    { return nil }
func (t *Tree) Create(path string) (*Group, error)   { return nil, errSkeleton }
func (t *Tree) Group(path string) *Group             { return &Group{path: path} }
func (g *Group) Path() string                        { return g.path }
func (g *Group) Apply(r *specs.LinuxResources) error { return errSkeleton }
func (g *Group) Join() (*Join, error)                { return nil, errSkeleton }
func (g *Group) Execs() (*Group, error)              { return nil, errSkeleton }
func (g *Group) OOM() (*linux.FD, error)             { return nil, errSkeleton }
func (g *Group) OOMKills() (uint64, error)           { return 0, errSkeleton }
func (g *Group) Stats() (Stats, error)               { return Stats{}, errSkeleton }
func (g *Group) Processes() ([]int, error)           { return nil, errSkeleton }
func (g *Group) Kill(ctx context.Context) error      { return errSkeleton }
func (g *Group) Freeze(ctx context.Context) error    { return errSkeleton }
func (g *Group) Thaw(ctx context.Context) error      { return errSkeleton }
func (g *Group) Remove(ctx context.Context) error    { return errSkeleton }
