// Package cgroup makes, limits, reads, freezes, kills and removes control groups, on cgroup v1, v2 and a hybrid of both.
//
// A [Tree] is what the machine has mounted: some hierarchies, each of version 1 or 2, each with its controllers. A [Group] is one
// path in all of them. Nothing else distinguishes the three modes: a controller's files are written in the version of the hierarchy
// it lives in, so that a hybrid machine with hugetlb on v2 and memory on v1 needs no case of its own.
//
//	tree, err := cgroup.Open()                 // once
//	g, err := tree.Create("/fermata/3f0c…")   // directories, controllers, cpusets
//	err = g.Apply(spec.Linux.Resources)        // limits and devices
//	j, err := g.Join()                         // descriptors a new process needs to be born in it
//	…
//	err = g.Kill(ctx); err = g.Remove(ctx)
//
// Every file is opened below the kept descriptor of its hierarchy's root, across neither links nor mounts.
//
// What belongs elsewhere: names of groups (the caller's), systemd (a scope is delegated to fermata as a whole), who dies when, OCI
// specs as such (package spec), and launching a process in a group (packages engine and launch).
package cgroup
