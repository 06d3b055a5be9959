package manifest

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Source is what must be on the disk before the containers are made.
type Source struct {
	// Volume is its name in the manifest.
	Volume string
	Path   string
	// Type is hostPath's type; EmptyDir has none and is made.
	Type     string
	EmptyDir bool
	// Group owns an emptyDir, if not nil.
	Group *int64
	// SubPaths of the volume that containers mount; they are made where they are missing.
	SubPaths []string
}

func sources(pod *Pod, facts Facts) []Source {
	var all []Source
	for _, v := range pod.Spec.Volumes {
		s := Source{Volume: v.Name, Path: volumePath(pod, facts, v.Name)}
		if v.HostPath != nil {
			s.Type = v.HostPath.Type
		} else {
			s.EmptyDir, s.Group = true, pod.Spec.SecurityContext.FSGroup
		}
		for _, list := range [][]Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for _, c := range list {
				for _, m := range c.VolumeMounts {
					if m.Name == v.Name && m.SubPath != "" && !slices.Contains(s.SubPaths, m.SubPath) {
						s.SubPaths = append(s.SubPaths, m.SubPath)
					}
				}
			}
		}
		all = append(all, s)
	}
	return all
}

func volumePath(pod *Pod, facts Facts, name string) string {
	for _, v := range pod.Spec.Volumes {
		if v.Name == name && v.HostPath != nil {
			return filepath.Clean(v.HostPath.Path)
		}
	}
	return filepath.Join(facts.Data, "volumes", name)
}

func mounts(pod *Pod, facts Facts, c *Container) []*runtimeapi.Mount {
	var all []*runtimeapi.Mount
	for _, m := range c.VolumeMounts {
		all = append(all, &runtimeapi.Mount{
			HostPath:          filepath.Join(volumePath(pod, facts, m.Name), m.SubPath),
			ContainerPath:     m.MountPath,
			Readonly:          m.ReadOnly,
			RecursiveReadOnly: m.RecursiveReadOnly == "Enabled",
			Propagation:       propagations[m.MountPropagation],
		})
	}
	return all
}

var propagations = map[string]runtimeapi.MountPropagation{
	"":                runtimeapi.MountPropagation_PROPAGATION_PRIVATE,
	"None":            runtimeapi.MountPropagation_PROPAGATION_PRIVATE,
	"HostToContainer": runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
	"Bidirectional":   runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL,
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
