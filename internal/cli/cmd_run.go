package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cli/manifest"
	"fermata/internal/errs"
)

// DefaultData is where run keeps what the kubelet would keep for a pod.
const DefaultData = "/var/lib/fermata-pods"

var runPod = command{
	name: "run", args: "-f FILE [flags]", group: groupStart, max: 0,
	brief: "run a pod from a Kubernetes manifest",
	long: `The manifest is a Pod as kubectl and the kubelet take it. Missing images are pulled, init containers run one by
one, then the containers start; the command returns when they run. A field that fermata does not carry out is
refused by its name. Containers are started once: restarting them is the kubelet's work.

The pod's logs and emptyDir volumes are kept in a directory below --data and go with the pod.`,
	example: "sudo fermata run -f pod.yaml\nkubectl run web --image=registry.example.com/web:1 --dry-run=client -o yaml | sudo fermata run -f -",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		o := &runOptions{}
		flags.StringVarP(&o.file, "filename", "f", "", "the manifest, YAML or JSON; - reads standard input")
		flags.BoolVar(&o.replace, "replace", false, "remove a pod of the same name first")
		flags.StringVar(&o.data, "data", DefaultData, "directory for logs and emptyDir volumes")
		flags.StringVar(&o.handler, "runtime-handler", "", "runtime handler (default the daemon's)")
		return func(ctx context.Context, _ []string) error {
			if o.file == "" {
				return misused("usage: fermata run -f FILE")
			}
			return s.run(ctx, o)
		}
	},
}

type runOptions struct {
	file, data, handler string
	replace             bool
}

func (s *session) run(ctx context.Context, o *runOptions) error {
	pod, err := s.readManifest(o.file)
	if err != nil {
		return err
	}
	data, err := filepath.Abs(o.data)
	if err != nil {
		return err
	}
	uid := pod.Metadata.UID
	if uid == "" {
		uid = newUID()
	}
	r := &podRun{session: s, pod: pod, handler: o.handler}
	r.facts = manifest.Facts{UID: uid, Data: filepath.Join(data, uid), Memory: machineMemory(), HostDNS: hostDNS()}
	r.plan = manifest.Convert(pod, r.facts)
	if err := s.clearTheWay(ctx, pod, o.replace); err != nil {
		return err
	}
	return r.do(ctx)
}

func (s *session) readManifest(file string) (*manifest.Pod, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(s.Stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	pod, err := manifest.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pod, nil
}

// newUID is a random UUID, version 4.
func newUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails since Go 1.24
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// clearTheWay sees to it that no other pod has the name.
func (s *session) clearTheWay(ctx context.Context, pod *manifest.Pod, replace bool) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	name := pod.Metadata.Namespace + "/" + pod.Metadata.Name
	for _, p := range v.pods {
		switch {
		case podName(p) != name:
		case replace:
			if err := s.removePod(ctx, v, p, -1); err != nil {
				return err
			}
		default:
			return errs.New(errs.AlreadyExists, "pod %s: is there already: `fermata rm %s` removes it, --replace does both", name, pod.Metadata.Name)
		}
	}
	return nil
}

// podRun carries a plan out, step by step.
type podRun struct {
	*session
	pod     *manifest.Pod
	handler string
	facts   manifest.Facts
	plan    *manifest.Plan
	id      string // the sandbox's
	client  runtimeapi.RuntimeServiceClient
}

func (r *podRun) do(ctx context.Context) error {
	var err error
	if r.client, err = r.runtime(ctx); err != nil {
		return err
	}
	users, err := r.pullImages(ctx)
	if err != nil {
		return err
	}
	for _, c := range r.plan.Containers {
		name := c.Config.Metadata.Name
		if why := manifest.RunsAsRoot(r.pod, name, users[name]); why != "" {
			return errs.New(errs.InvalidArgument, "container %s: must not run as root (runAsNonRoot), and %s", name, why)
		}
	}
	if err := prepare(r.facts.Data, r.plan); err != nil {
		return err
	}
	if err := r.runSandbox(ctx); err != nil {
		if r.id == "" { // nothing runs that could use it
			err = errors.Join(err, os.RemoveAll(r.facts.Data))
		}
		return err
	}
	if err := r.runContainers(ctx); err != nil {
		name := r.pod.Metadata.Name
		if r.pod.Metadata.Namespace != "default" {
			name = r.pod.Metadata.Namespace + "/" + name
		}
		return fmt.Errorf("%w\nThe pod is kept as it is: `fermata ps --all %s` shows its containers, `fermata rm %s` removes it", err, name, name)
	}
	if done, err := r.structured(map[string]any{"id": r.id, "ips": r.facts.PodIPs, "data": r.facts.Data}, ""); done {
		return err
	}
	fmt.Fprintf(r.Stdout, "pod/%s created\n", r.pod.Metadata.Name)
	return nil
}

// pullImages brings every image here as its policy says, sets the reference each container is to use, and returns the images' users
// by container.
func (r *podRun) pullImages(ctx context.Context) (map[string]string, error) {
	client, err := r.images(ctx)
	if err != nil {
		return nil, err
	}
	users, pulled := map[string]string{}, map[string]bool{}
	for _, c := range r.plan.Containers {
		ref := c.Config.Image.Image
		status, err := client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: c.Config.Image})
		if err != nil {
			return nil, fmt.Errorf("look for image %s: %w", ref, err)
		}
		wanted := status.Image == nil || c.PullPolicy == "Always"
		if wanted && c.PullPolicy == "Never" {
			return nil, errs.New(errs.NotFound, "image %s: is not here, and imagePullPolicy is Never: `fermata pull` or `fermata load` it", ref)
		}
		if wanted && !pulled[ref] {
			if _, err := r.pull(ctx, ref, nil); err != nil {
				return nil, err
			}
			pulled[ref] = true
			if status, err = client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: c.Config.Image}); err != nil {
				return nil, fmt.Errorf("look for image %s: %w", ref, err)
			}
		}
		users[c.Config.Metadata.Name] = imageUser(status.Image)
	}
	return users, nil
}

func imageUser(image *runtimeapi.Image) string {
	if image.GetUid() != nil {
		return fmt.Sprint(image.GetUid().Value)
	}
	return image.GetUsername()
}

func (r *podRun) runSandbox(ctx context.Context) error {
	answer, err := r.client.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: r.plan.Sandbox, RuntimeHandler: r.handler})
	if err != nil {
		return fmt.Errorf("start pod %s: %w", r.pod.Metadata.Name, err)
	}
	r.id = answer.PodSandboxId
	if r.facts.PodIPs, err = r.podIPs(ctx, r.id); err != nil {
		return err
	}
	r.plan = manifest.Convert(r.pod, r.facts)
	return nil
}

func (r *podRun) runContainers(ctx context.Context) error {
	type started struct{ id, name string }
	var all []started
	for _, c := range r.plan.Containers {
		name := c.Config.Metadata.Name
		id, err := r.start(ctx, c.Config)
		if err != nil {
			return err
		}
		if c.Role == manifest.Init {
			if err := r.waitInit(ctx, id, name); err != nil {
				return err
			}
			continue
		}
		all = append(all, started{id, name})
	}
	for _, c := range all {
		status, err := r.containerStatus(ctx, c.id)
		if err != nil {
			return err
		}
		if status.State == runtimeapi.ContainerState_CONTAINER_EXITED && status.ExitCode != 0 {
			return r.diedError(c.name, status)
		}
	}
	return nil
}

func (r *podRun) start(ctx context.Context, config *runtimeapi.ContainerConfig) (string, error) {
	name := config.Metadata.Name
	created, err := r.client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: r.id, Config: config, SandboxConfig: r.plan.Sandbox,
	})
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", name, err)
	}
	if _, err := r.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		return "", fmt.Errorf("start container %s: %w", name, err)
	}
	return created.ContainerId, nil
}

// Pauses between two looks at an init container: CRI's events are not every runtime's, its statuses are.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 200 * time.Millisecond
)

// waitInit returns when the init container has ended well.
func (r *podRun) waitInit(ctx context.Context, id, name string) error {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		status, err := r.containerStatus(ctx, id)
		if err != nil {
			return err
		}
		switch {
		case status.State != runtimeapi.ContainerState_CONTAINER_EXITED:
		case status.ExitCode == 0:
			return nil
		default:
			return r.diedError(name, status)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// diedError says how a container ended and shows the end of what it wrote.
func (r *podRun) diedError(name string, status *runtimeapi.ContainerStatus) error {
	text := fmt.Sprintf("container %s: ended with exit code %d", name, status.ExitCode)
	if status.Reason != "" && status.Reason != "Error" {
		text += " (" + status.Reason + ")"
	}
	if status.Message != "" {
		text += ": " + status.Message
	}
	if end := lastLines(status.LogPath, 5); end != "" {
		text += "; its last words:\n" + end
	}
	return errors.New(strings.TrimSuffix(text, "\n"))
}

// lastLines is for an error message: what cannot be read is left out.
func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	start, err := tailStart(f, n)
	if err != nil {
		return ""
	}
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		entry, _ := parseLog([]byte(strings.TrimSuffix(line, "\n")))
		b.Write(entry.Text)
		if !entry.Partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
