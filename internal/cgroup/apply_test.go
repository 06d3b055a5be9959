package cgroup_test

import (
	"testing"

	"fermata/internal/cgroup"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

func limitPidsOf(g *cgroup.Group, n int64) error {
	return g.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(n)}})
}

func limitPids(t *testing.T, g *cgroup.Group, n int64) {
	t.Helper()
	if err := limitPidsOf(g, n); err != nil {
		t.Fatal(err)
	}
}
