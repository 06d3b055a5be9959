package daemon

import (
	"context"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cri"
	"fermata/internal/image"
	"fermata/internal/network"
	"fermata/internal/pod"
	"fermata/internal/spec"
)

// pauseVersion counts changes of pause itself.
const pauseVersion = "1"

// pauseName is the built-in image by which people see pause in a list of images. Pods do not need it.
func pauseName() string { return "fermata.local/pause:" + pauseVersion }

func pauseConfig() v1.Config {
	return v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}
}

// makePods makes the manager of pods. The keeper comes after it, because its exits go to the manager.
func (p *parts) makePods(context.Context) error {
	handlers := p.handlers()
	p.pods = pod.New(pod.Options{
		Root: p.cfg.Root, State: p.cfg.State, CgroupParent: p.cfg.CgroupParent, BootID: bootID(), SandboxImage: pauseName(),
		Cgroups: p.cgroups, Images: &podImages{p.images}, Network: &podNetwork{p}, Runtime: newLauncher(p), Supervisor: &p.keeper,
		Volumes: p.engine, Stdio: &p.keeper, Dial: p.dial,
		Records: &records{root: filepath.Join(p.cfg.Root, "pods")}, AppArmor: p.appArmor, SELinux: p.selinux, Facts: p.facts, Handlers: handlerNames(handlers), Log: p.log,
	})
	p.ended("pods", func() error { p.pods.Close(); return nil })
	p.node = cri.Node{
		Version: Version, Handlers: handlers, NetworkStatus: p.network.Status, SetPodCIDR: p.network.SetPodCIDR, Info: p.info,
	}
	return nil
}

// info is Status's verbose part.
func (p *parts) info() map[string]string {
	b, err := json.Marshal(map[string]any{
		"sandboxImage": pauseName(), "version": Version, "config": p.cfg, "cgroups": p.cgroups.Mode(),
		"missingControllers": p.cgroups.Missing(), "kernel": p.engine.Features().Facilities,
		"appArmor": p.facts.AppArmor, "selinux": p.facts.SELinux,
	})
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]string{"config": string(b)}
}

// podImages is the image store as pods see it.
type podImages struct{ store *image.Store }

var _ pod.Images = (*podImages)(nil)

// Resolve finds an image and what a container needs of it.
func (i *podImages) Resolve(ref string) (*pod.Image, error) {
	img, err := i.store.Resolve(ref)
	if err != nil {
		return nil, err
	}
	out := &pod.Image{ID: img.ID, Name: ref, Ref: img.ID, Lowers: i.store.Lowers(img), Config: imageConfig(&img.Config)}
	if len(img.RepoTags) > 0 {
		out.Name = img.RepoTags[0]
	}
	if len(img.RepoDigests) > 0 {
		out.Ref = img.RepoDigests[0]
	}
	return out, nil
}

// Hold keeps an image's layers for a user.
func (i *podImages) Hold(imageID, user string) error { return i.store.Hold(imageID, user) }

// Release gives them up.
func (i *podImages) Release(user string) error { return i.store.Release(user) }

func imageConfig(c *v1.Config) spec.Image {
	out := spec.Image{
		Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, User: c.User, StopSignal: c.StopSignal,
	}
	for path := range c.Volumes {
		out.Volumes = append(out.Volumes, path)
	}
	slices.Sort(out.Volumes)
	return out
}

// podNetwork attaches pods to the node's network.
type podNetwork struct{ *parts }

var _ pod.Network = (*podNetwork)(nil)

// Attach gives a sandbox its interface, addresses and host ports.
func (n *podNetwork) Attach(ctx context.Context, sandboxID string, config *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	ports, err := portMappings(config.GetPortMappings())
	if err != nil {
		return nil, err
	}
	held, err := n.keeper.Namespaces(ctx, sandboxID)
	if err != nil {
		return nil, err
	}
	defer closeNamespaces(held)
	md := config.GetMetadata()
	result, err := n.network.Attach(ctx, network.Attachment{
		SandboxID: sandboxID, NetNS: held["net"], Ports: ports, PodName: md.GetName(), PodNamespace: md.GetNamespace(), PodUID: md.GetUid(),
		Annotations: config.GetAnnotations(),
	})
	if err != nil {
		return nil, err
	}
	return result.IPs, nil
}

// Detach frees them.
func (n *podNetwork) Detach(ctx context.Context, sandboxID string) error {
	return n.network.Detach(ctx, sandboxID)
}
