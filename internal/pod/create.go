package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
	"fermata/internal/undo"
)

// CreateContainer makes a container that can be started: image held, spec written, directories made. The same request again joins or gets the same ID.
func (m *Manager) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (string, error) {
	config := req.GetConfig()
	bad := func(field, why string) error {
		return errs.New(errs.InvalidArgument, "create container: %s: %s", field, why)
	}
	switch {
	case config == nil:
		return "", bad("config", "missing")
	case config.GetMetadata().GetName() == "":
		return "", bad("config.metadata.name", "missing")
	case config.GetImage().GetImage() == "":
		return "", bad("config.image.image", "missing")
	case req.GetSandboxConfig() == nil:
		return "", bad("sandbox_config", "missing")
	}
	if err := checkLogPath(config.GetLogPath()); err != nil {
		return "", err
	}
	p, err := m.findPod(req.GetPodSandboxId())
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", config.GetMetadata().GetName(), err)
	}
	name := fmt.Sprintf("%s_%d in pod sandbox %s", config.GetMetadata().GetName(), config.GetMetadata().GetAttempt(), p.id)
	request := digest(req)
	return m.flights.join(ctx, "container "+name, request, flightOps{
		create: func(ctx context.Context, wanted func() bool) (string, error) {
			return m.createOrFind(ctx, p, creation{req, request, wanted})
		},
		claim:   m.claimContainer,
		abandon: func(id string) { m.removeLater(id, m.abandonContainer) },
	})
}

// checkLogPath refuses a log file outside the pod's log directory.
func checkLogPath(path string) error {
	base := path[strings.LastIndexByte(path, '/')+1:] // one that names a directory would put the file elsewhere than the status says
	if path != "" && (base == "" || base == ".") || filepath.IsAbs(path) || slices.Contains(strings.Split(path, "/"), "..") || strings.ContainsRune(path, 0) {
		return errs.New(errs.InvalidArgument, "create container: config.log_path: %q is not a path below the pod's log directory", path)
	}
	return nil
}

// creation is a request to create a container, on its way.
type creation struct {
	req     *runtimeapi.CreateContainerRequest
	request string // digest
	wanted  func() bool
}

// createOrFind returns an equal container that was created and not started yet, or makes one.
func (m *Manager) createOrFind(ctx context.Context, p *Pod, n creation) (string, error) {
	md := n.req.GetConfig().GetMetadata()
	for _, c := range p.allContainers() {
		r := c.snapshot()
		had := r.Config.M.GetMetadata()
		if had.GetName() != md.GetName() || had.GetAttempt() != md.GetAttempt() || r.State == Removing {
			continue
		}
		if r.State == Created && r.Request == n.request && !c.isAbandoned() {
			return r.ID, nil
		}
		if !c.isVisible() {
			if err := m.removeContainer(ctx, c); err != nil {
				return "", err
			}
			continue
		}
		return "", errs.New(errs.AlreadyExists, "create container %s: container %s has this name and attempt and is %s; remove it or use another attempt number", md.GetName(), r.ID, r.State)
	}
	c := &Container{id: newID(), pod: p, op: newLock(), execGate: newLock()}
	c.record = ContainerRecord{
		ID: c.id, PodID: p.id, State: Preparing, Config: wrap(n.req.GetConfig()), Request: n.request, Created: time.Now(),
		Resources: wrap(n.req.GetConfig().GetLinux().GetResources()),
	}
	return c.id, m.create(ctx, c, n.wanted)
}

// create is the pipeline of a container's creation.
func (m *Manager) create(ctx context.Context, c *Container, wanted func() bool) (err error) {
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	defer c.op.release()
	r := c.snapshot()
	sandbox := c.pod.snapshot()
	r.Cgroup = filepath.Join(filepath.Dir(sandbox.Cgroup), c.id)
	r.LogPath = logPath(sandbox.Config.M, r.Config.M, c.id)
	var u undo.Stack
	defer u.OnError(ctx, &err)
	var img *Image
	var made *specs.Spec
	err = c.journal.perform("create", []step{
		{"record", func() error {
			u.Push("record", func(context.Context) error { return m.dropContainer(c) })
			if err := m.register(c, r); err != nil {
				return err
			}
			return m.Records.WriteContainer(&r, nil)
		}},
		{"image", func() error {
			u.Push("image", func(context.Context) error { return m.releaseImages(&r) })
			if img, err = m.image(r.Config.M.GetImage(), c.id); err != nil {
				return err
			}
			return m.holdImageVolumes(&r)
		}},
		{"spec", func() error {
			r.ImageID, r.ImageName, r.ImageRef, r.Lowers = img.ID, img.Name, img.Ref, img.Lowers
			made, err = m.makeSpec(ctx, &r, &sandbox, img)
			return err
		}},
		{"rootfs", func() error {
			for _, dir := range []string{"upper", "work"} {
				if err := os.Mkdir(filepath.Join(m.containerDir(&r), dir), 0o755); err != nil {
					return err
				}
			}
			return m.makeAnonymousVolumes(&r, img)
		}},
		{"created", func() error {
			c.pod.mu.Lock()
			defer c.pod.mu.Unlock()
			if c.pod.record.State != Ready {
				return errs.New(errs.FailedPrecondition, "pod sandbox %s is %s", c.pod.id, c.pod.record.State)
			}
			r.State, r.Claimed, r.Stages = Created, wanted(), c.journal.snapshot()
			if err := m.Records.WriteContainer(&r, made); err != nil {
				return err
			}
			c.record = r
			return nil
		}},
	}...)
	if err != nil {
		return fmt.Errorf("create container %s: %w", r.Config.M.GetMetadata().GetName(), err)
	}
	return nil
}

// register puts a container into its pod, which must be ready.
func (m *Manager) register(c *Container, r ContainerRecord) error {
	c.pod.mu.Lock()
	if s := c.pod.record.State; s != Ready {
		c.pod.mu.Unlock()
		return errs.New(errs.FailedPrecondition, "pod sandbox %s is %s, not ready", c.pod.id, s)
	}
	c.record = r
	c.pod.containers[c.id] = c
	c.pod.mu.Unlock()
	m.mu.Lock()
	m.containers[c.id] = c
	m.mu.Unlock()
	return nil
}

// image resolves what a container is made from and keeps it.
func (m *Manager) image(ref *runtimeapi.ImageSpec, user string) (*Image, error) {
	img, err := m.Images.Resolve(ref.GetImage())
	if err != nil {
		return nil, errs.Blame(err, "image", ref.GetImage())
	}
	return img, m.Images.Hold(img.ID, user)
}

// makeSpec looks up what a spec depends on and makes it.
func (m *Manager) makeSpec(ctx context.Context, r *ContainerRecord, sandbox *PodRecord, img *Image) (*specs.Spec, error) {
	config := r.Config.M
	sc := config.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() && !sandbox.Config.M.GetLinux().GetSecurityContext().GetPrivileged() {
		return nil, errs.New(errs.InvalidArgument, "security_context.privileged: no privileged container in pod sandbox %s, which is not", sandbox.ID)
	}
	if err := m.checkTarget(config, sandbox.ID); err != nil {
		return nil, err
	}
	passwd, group, err := m.Runtime.UserFiles(ctx, img)
	if err != nil {
		return nil, fmt.Errorf("read users of image %s: %w", img.Name, err)
	}
	identity, err := spec.ResolveUser(sc, img.Config.User, passwd, group)
	if err != nil {
		return nil, err
	}
	devices, err := m.devices(config)
	if err != nil {
		return nil, err
	}
	stop, err := spec.StopSignal(config, img.Config)
	if err != nil {
		return nil, err
	}
	r.StopSignal = stop
	r.UID, r.GID, r.Groups = identity.UID, identity.GID, identity.Groups
	in := spec.Input{
		ID: r.ID, SandboxID: sandbox.ID, Sandbox: sandbox.Config.M, Config: config, Image: img.Config, Identity: identity,
		Facts: m.Facts, Files: m.podFiles(sandbox.ID), CgroupsPath: r.Cgroup, Hostname: podHostname(sandbox.Config.M), Devices: devices,
	}
	if in.Volumes, err = m.anonymousVolumes(r, img); err != nil {
		return nil, err
	}
	if in.Seccomp, err = m.seccompProfile(config); err != nil {
		return nil, err
	}
	if in.AppArmorProfile, err = m.appArmorProfile(ctx, sc); err != nil {
		return nil, err
	}
	if in.SELinux, err = m.selinuxLabels(sandbox, sc); err != nil {
		return nil, err
	}
	return spec.Container(in)
}

// checkTarget makes sure that the container whose PID namespace is to be joined is of this pod and runs (NS-2).
func (m *Manager) checkTarget(config *runtimeapi.ContainerConfig, podID string) error {
	ns := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if ns.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return nil
	}
	target, err := m.findContainer(ns.GetTargetId())
	if err != nil {
		return fmt.Errorf("security_context.namespace_options.target_id: %w", err)
	}
	if r := target.snapshot(); r.PodID != podID || r.State != StateRun {
		return errs.New(errs.FailedPrecondition, "security_context.namespace_options.target_id: container %s is %s in pod sandbox %s; it must run in this one", r.ID, r.State, r.PodID)
	}
	return nil
}

// devices looks the requested devices up on the host (DEV-1).
func (m *Manager) devices(config *runtimeapi.ContainerConfig) ([]spec.Device, error) {
	var all []spec.Device
	for i, d := range config.GetDevices() {
		found, err := m.Runtime.Devices(d.GetHostPath())
		if err != nil {
			return nil, fmt.Errorf("config.devices[%d]: %w", i, err)
		}
		for _, f := range found {
			at := d.GetContainerPath()
			if at == "" {
				at = d.GetHostPath()
			}
			if rel, err := filepath.Rel(filepath.Clean(d.GetHostPath()), f.Path); err == nil && rel != "." && !strings.HasPrefix(rel, "..") {
				at = filepath.Join(at, rel)
			}
			f.Path = at
			all = append(all, spec.Device{LinuxDevice: f, Permissions: d.GetPermissions()})
		}
	}
	return all, nil
}

// logPath is where the container's log goes; where nothing is logged it still names a place of the container's own.
func logPath(sandbox *runtimeapi.PodSandboxConfig, config *runtimeapi.ContainerConfig, id string) string {
	dir := sandbox.GetLogDirectory()
	if dir == "" {
		dir = "/var/log/fermata"
	}
	if config.GetLogPath() == "" || sandbox.GetLogDirectory() == "" {
		return filepath.Join(dir, id+".log")
	}
	return filepath.Join(dir, config.GetLogPath())
}

// claimContainer gives a container to its caller.
func (m *Manager) claimContainer(id string) error {
	c, err := m.anyContainer(id)
	if err != nil {
		return err
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	switch {
	case c.visible:
		return nil
	case c.record.State != Created || c.abandoned:
		return errs.New(errs.Unavailable, "claim container %s: it is %s and going away; ask again", id, c.record.State)
	}
	if next := c.record; !next.Claimed {
		next.Claimed = true
		if err := m.Records.WriteContainer(&next, nil); err != nil {
			return err
		}
		c.record = next
	}
	c.visible = true
	m.tellOf(c.pod, c.id, eventCreated)
	return nil
}

func (m *Manager) abandonContainer(ctx context.Context, id string) error {
	c, err := m.anyContainer(id)
	if err != nil {
		return nil //nolint:nilerr // gone already: nothing to remove
	}
	c.pod.mu.Lock()
	c.abandoned = !c.visible // from here on it cannot be claimed
	abandoned := c.abandoned
	c.pod.mu.Unlock()
	if !abandoned {
		return nil
	}
	return m.removeContainer(ctx, c)
}

func (m *Manager) anyContainer(id string) (*Container, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if c, ok := m.containers[id]; ok {
		return c, nil
	}
	return nil, errs.New(errs.NotFound, "find container %q: no such container", id)
}

// dropContainer takes a container off the disk and out of memory.
func (m *Manager) dropContainer(c *Container) error {
	r := c.snapshot()
	if err := os.RemoveAll(m.containerDir(&r)); err != nil {
		return err
	}
	m.execSpecs.drop(c.id)
	c.pod.mu.Lock()
	if c.pod.containers[c.id] == c { // else it never came to be one
		c.pod.rememberContainer(c)
	}
	delete(c.pod.containers, c.id)
	c.pod.mu.Unlock()
	m.mu.Lock()
	delete(m.containers, c.id)
	m.mu.Unlock()
	return nil
}

func (m *Manager) containerDir(r *ContainerRecord) string {
	return filepath.Join(m.podDir(r.PodID), "containers", r.ID)
}
