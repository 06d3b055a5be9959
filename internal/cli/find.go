package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cli/manifest"
	"fermata/internal/errs"
	"fermata/internal/suggest"
)

// view is one reading of all pods and containers, for finding what an argument names.
type view struct {
	pods       []*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
}

func (s *session) look(ctx context.Context) (*view, error) {
	client, err := s.runtime(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	containers, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return &view{pods: pods.Items, containers: containers.Containers}, nil
}

// podName is how a pod is called in messages and arguments.
func podName(p *runtimeapi.PodSandbox) string {
	return p.GetMetadata().GetNamespace() + "/" + p.GetMetadata().GetName()
}

// pod finds the pod that name means: a name, namespace/name or the beginning of an ID. Of pods of one name the ready and then the
// newest one is meant.
func (v *view) pod(name string) (*runtimeapi.PodSandbox, error) {
	var byName, byID []*runtimeapi.PodSandbox
	for _, p := range v.pods {
		if name == podName(p) || name == p.GetMetadata().GetName() {
			byName = append(byName, p)
		}
		if strings.HasPrefix(p.Id, name) && name != "" {
			byID = append(byID, p)
		}
	}
	if len(byName) > 0 {
		for _, p := range byName {
			if podName(p) != podName(byName[0]) {
				return nil, errs.New(errs.InvalidArgument, "pod %q: there is %s and %s: say which", name, podName(byName[0]), podName(p))
			}
		}
		sort.SliceStable(byName, func(i, j int) bool {
			a, b := byName[i], byName[j]
			if a.State != b.State {
				return a.State == runtimeapi.PodSandboxState_SANDBOX_READY
			}
			return a.CreatedAt > b.CreatedAt
		})
		return byName[0], nil
	}
	switch len(byID) {
	case 0:
		var all []string
		for _, p := range v.pods {
			all = append(all, p.GetMetadata().GetName(), podName(p))
		}
		return nil, errs.New(errs.NotFound, "pod %q: there is none%s; `fermata pods` lists them", name, suggest.DidYouMean(name, all))
	case 1:
		return byID[0], nil
	}
	return nil, errs.New(errs.InvalidArgument, "pod %q: %d IDs begin with it: give more of it", name, len(byID))
}

// of returns a pod's containers, oldest first.
func (v *view) of(podID string) []*runtimeapi.Container {
	var all []*runtimeapi.Container
	for _, c := range v.containers {
		if c.PodSandboxId == podID {
			all = append(all, c)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].CreatedAt < all[j].CreatedAt })
	return all
}

// podOf returns the pod of a container, or an empty one while it is being removed.
func (v *view) podOf(c *runtimeapi.Container) *runtimeapi.PodSandbox {
	for _, p := range v.pods {
		if p.Id == c.PodSandboxId {
			return p
		}
	}
	return &runtimeapi.PodSandbox{Metadata: &runtimeapi.PodSandboxMetadata{}}
}

// containerNames a container in messages: pod/container.
func (v *view) containerName(c *runtimeapi.Container) string {
	return v.podOf(c).GetMetadata().GetName() + "/" + c.GetMetadata().GetName()
}

// container finds the container that name means: the beginning of an ID, a name that only one pod has, pod/container,
// namespace/pod/container, or a pod with one container. in is the --container flag: then name is a pod's.
func (v *view) container(name, in string) (*runtimeapi.Container, error) {
	if in != "" {
		pod, err := v.pod(name)
		if err != nil {
			return nil, err
		}
		return v.inPod(pod, in)
	}
	if found := v.byNameOrID(name); len(found) == 1 {
		return found[0], nil
	} else if len(found) > 1 {
		return nil, errs.New(errs.InvalidArgument, "container %q: %s and %s are meant: say which, or give more of the ID",
			name, v.containerName(found[0]), v.containerName(found[1]))
	}
	if pod, err := v.pod(name); err == nil {
		return v.only(pod)
	} else if errs.Is(err, errs.InvalidArgument) {
		return nil, err
	}
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		if pod, err := v.pod(name[:i]); err == nil {
			return v.inPod(pod, name[i+1:])
		}
	}
	var all []string
	for _, c := range v.containers {
		all = append(all, c.GetMetadata().GetName(), v.containerName(c))
	}
	for _, p := range v.pods {
		all = append(all, p.GetMetadata().GetName())
	}
	return nil, errs.New(errs.NotFound, "container %q: there is none%s; `fermata ps --all` lists them", name, suggest.DidYouMean(name, all))
}

// byNameOrID prefers names, of which the newest attempt in each pod is meant, to beginnings of IDs.
func (v *view) byNameOrID(name string) []*runtimeapi.Container {
	var byID []*runtimeapi.Container
	newest := map[string]*runtimeapi.Container{}
	for _, c := range v.containers {
		if c.GetMetadata().GetName() == name {
			if old := newest[c.PodSandboxId]; old == nil || c.CreatedAt > old.CreatedAt {
				newest[c.PodSandboxId] = c
			}
		}
		if name != "" && strings.HasPrefix(c.Id, name) {
			byID = append(byID, c)
		}
	}
	if len(newest) == 0 {
		return byID
	}
	var byName []*runtimeapi.Container
	for _, c := range v.containers { // in the list's order, not the map's
		if newest[c.PodSandboxId] == c {
			byName = append(byName, c)
		}
	}
	return byName
}

func (v *view) inPod(pod *runtimeapi.PodSandbox, name string) (*runtimeapi.Container, error) {
	var found *runtimeapi.Container
	var all []string
	for _, c := range v.of(pod.Id) {
		all = append(all, c.GetMetadata().GetName())
		if c.GetMetadata().GetName() == name {
			found = c
		}
	}
	if found == nil {
		return nil, errs.New(errs.NotFound, "container %q: not in pod %s, which has: %s", name, podName(pod), strings.Join(all, ", "))
	}
	return found, nil
}

// only returns a pod's one container; init containers do not count, as nobody means one that ended unless it is named.
func (v *view) only(pod *runtimeapi.PodSandbox) (*runtimeapi.Container, error) {
	last := map[string]*runtimeapi.Container{}
	var all []string
	for _, c := range v.of(pod.Id) {
		if c.Labels[manifest.RoleLabel] == string(manifest.Init) {
			continue
		}
		if last[c.GetMetadata().GetName()] == nil {
			all = append(all, c.GetMetadata().GetName())
		}
		last[c.GetMetadata().GetName()] = c
	}
	switch len(all) {
	case 0:
		return nil, errs.New(errs.NotFound, "pod %s: has no container", podName(pod))
	case 1:
		return last[all[0]], nil
	}
	return nil, errs.New(errs.InvalidArgument, "pod %s: has several containers (%s): name one with -c", podName(pod), strings.Join(all, ", "))
}
