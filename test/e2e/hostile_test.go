package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/hostile"
	"fermata/internal/testkit/images"
)

var (
	requests = flag.Int("requests", 10_000, "how many bad requests are made")
	seed     = flag.Uint64("seed", uint64(time.Now().UnixNano()), "decides which bad requests are made; printed")
	request  = flag.Int("request", -1, "makes only this one of them")
)

// No request, however bad, brings the daemon down, is answered as if the daemon were at fault, or leaves anything behind.
func TestBadRequests(t *testing.T) {
	w := start(t)
	t.Logf("-seed %d -requests %d", *seed, *requests)
	h := newHostility(t, w)
	h.run(t, *requests/20) // what grows once has grown
	memory := residentKB(t, w)
	h.run(t, *requests)
	for _, f := range h.fixtures {
		check(t, w.CRI.RemovePod(t.Context(), f.pod))
	}
	if now := residentKB(t, w); now > 2*memory+64<<10 {
		t.Errorf("the daemon and the keeper have %d kB resident, had %d", now, memory)
	}
	h.report(t)
	h.checkRecords(t)
	h.conn.Close()
	h.fewGoroutines(t)
}

// hostility makes bad requests, each worker on pods of its own.
type hostility struct {
	*world
	conn     *grpc.ClientConn
	methods  []protoreflect.MethodDescriptor // each as often as it is to be called
	strings  map[string][]string
	fixtures []*fixtures
	scratch  string
	archive  []byte
	dead     atomic.Bool

	mu       sync.Mutex
	codes    map[codes.Code]int
	accepted map[string]int
	called   map[string]int
	wrong    map[string]*wrong
}

// wrong are answers of one kind that ought not to be.
type wrong struct {
	times        int
	number       int
	text, change string
}

// workers is how many make requests at once.
const workers = 4

func newHostility(t *testing.T, w *world) *hostility {
	t.Helper()
	conn, err := grpc.NewClient(w.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	h := &hostility{
		world: w, conn: conn, scratch: filepath.Join(w.Dir, "x"), codes: map[codes.Code]int{}, accepted: map[string]int{}, called: map[string]int{}, wrong: map[string]*wrong{},
	}
	check(t, os.MkdirAll(filepath.Join(h.scratch, "there"), 0o755))
	check(t, os.WriteFile(filepath.Join(h.scratch, "file"), []byte("{}"), 0o644))
	check(t, os.Symlink("there", filepath.Join(h.scratch, "link")))
	check(t, os.Symlink("loop", filepath.Join(h.scratch, "loop")))
	check(t, syscall.Mkfifo(filepath.Join(h.scratch, "fifo"), 0o644))
	h.strings = h.harmless()
	h.archive = tinyArchive()
	const usual = 5
	often := map[protoreflect.Name]int{
		"RunPodSandbox": 15, "CreateContainer": 60, "UpdateContainerResources": 30, "ExecSync": 10, "PullImage": 10,
		"StartContainer": 1, "StopContainer": 1, "RemoveContainer": 1, "StopPodSandbox": 1, "RemovePodSandbox": 1, "LoadImage": 2, // whose fixtures are renewed
	}
	for _, file := range []protoreflect.FileDescriptor{runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto, fermatav1.File_fermata_v1_fermata_proto} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				for range cmp.Or(often[methods.Get(j).Name()], usual) {
					h.methods = append(h.methods, methods.Get(j))
				}
			}
		}
	}
	for range workers {
		f := &fixtures{hostility: h}
		check(t, f.renew(t.Context()))
		h.fixtures = append(h.fixtures, f)
	}
	return h
}

// harmless says what may be tried where a value would mean something on this machine that is not the test's.
func (h *hostility) harmless() map[string][]string {
	// Nobody's name but the archive's is given to an image, and only such are removed: all workers use busybox.
	in := func(names ...string) (all []string) {
		for _, n := range names {
			all = append(all, filepath.Join(h.scratch, n))
		}
		return append(all, "", "x", "../..", h.scratch+"/x\x00y", h.scratch+"/"+strings.Repeat("z", 300), h.scratch+"/"+strings.Repeat("z/", 3000), strings.Repeat("z", 200_000))
	}
	parent := h.Scope().Cgroups[0]
	pictures := []string{
		"", "x\x00y", "UPPER", "x y", "busybox@sha256:z", images.Busybox + "@sha256:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("0", 64), "0000",
		"127.0.0.1:1/x", "docker.io/none/such:1", "../..", "/", ":", "@", "a:b:c", strings.Repeat("z", 5000), strings.Repeat("z/", 3000), images.Busybox,
	}
	return map[string][]string{
		"log_directory":            append(in("logs", "logs/deep/er", "file", "file/below", "fifo", "link", "loop", "there"), "/proc/x"),
		"host_path":                append(in("there", "there/is/not", "file", "file/below", "fifo", "link", "loop"), "/dev/null", "/proc/self/fd/1"),
		"Device.host_path":         append(in("there", "file", "fifo", "loop"), "/dev/null", "/dev/zero", "/dev/none"),
		"localhost_ref":            append(in("file", "there", "fifo", "loop", "none"), "/dev/zero", "localhost/x"),
		"seccomp_profile_path":     append(in("file"), "localhost/"+h.scratch+"/file", "localhost/x", "runtime/default", "unconfined"),
		"cgroup_parent":            {"", parent, parent + "//./", "../..", parent + "/../..", "a\nb", "a\x00b", parent + "/" + strings.Repeat("z", 300), parent + "/" + strings.Repeat("z/", 3000)},
		"image":                    pictures,
		"user_specified_image":     pictures,
		"image_ref":                pictures,
		"pod_cidr":                 {"", "x", "10.0.0.0/99", "0.0.0.0/0", "127.0.0.0/8", "fe80::/10", "224.0.0.0/4", "10.1.2.0/24,10.1.3.0/24", "10.1.2.3", strings.Repeat("10.1.2.0/24,", 10_000)},
		"location":                 in("there/x", "file"),
		"output_path":              in("there", "file"),
		"checkpoint_path":          in("there", "file"),
		"ExportImageRequest.image": append(pictures[:len(pictures)-1:len(pictures)-1], tiny),
		"LoadImageRequest.name":    append(pictures[:len(pictures)-1:len(pictures)-1], tiny),
	}
}

// run makes requests, all workers together.
func (h *hostility) run(t *testing.T, times int) {
	t.Helper()
	var next atomic.Int64
	first := 0
	if *request >= 0 {
		first, times = *request, *request+1
	}
	next.Store(int64(first))
	var done sync.WaitGroup
	for _, f := range h.fixtures {
		done.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= times || h.dead.Load() {
					return
				}
				if err := f.one(t.Context(), n); err != nil {
					t.Errorf("request %d: %v", n, err)
					h.dead.Store(true)
				}
			}
		})
	}
	done.Wait()
}

// fixtures are what good requests of one worker are about.
type fixtures struct {
	*hostility
	config             *runtimeapi.PodSandboxConfig
	pod, running, idle string
	made               int // names
}

// command is a container's that ends when it is asked to.
var command = []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"}

// renew makes the worker's pod anew if it is not what it was.
func (f *fixtures) renew(ctx context.Context) error {
	if f.pod != "" {
		s, err := f.CRI.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: f.running})
		i, idle := f.CRI.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: f.idle})
		p, gone := f.CRI.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: f.pod})
		if err == nil && idle == nil && gone == nil && s.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING &&
			i.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_CREATED && p.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			return nil
		}
		if err := f.CRI.RemovePod(ctx, f.pod); err != nil {
			return err
		}
	}
	if _, err := f.CRI.Pull(ctx, images.Busybox); err != nil {
		return err
	}
	f.config = cri.PodConfig("fixture", filepath.Join(f.scratch, "logs"))
	f.config.Linux.CgroupParent = f.Scope().Cgroups[0]
	f.config.Linux.SecurityContext.Privileged = true
	var err error
	if f.pod, err = f.CRI.RunPod(ctx, f.config); err != nil {
		return err
	}
	c := cri.ContainerConfig("running", images.Busybox, command...)
	c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 100}
	if f.running, err = f.CRI.Run(ctx, f.pod, f.config, c); err != nil {
		return err
	}
	f.idle, err = f.CRI.Create(ctx, f.pod, f.config, cri.ContainerConfig("idle", images.Busybox, command...))
	return err
}

// patience is how long an answer may take.
const patience = 20 * time.Second

// one makes the request with a number, and undoes it if it is accepted.
func (f *fixtures) one(ctx context.Context, number int) error {
	g := hostile.New(*seed, uint64(number), f.strings)
	method := f.methods[number%len(f.methods)]
	m := f.good(method, g)
	var changes []hostile.Change
	if g.Number(25) == 0 { // nothing good left
		proto.Reset(m)
		g.Fill(m.ProtoReflect(), 3)
	} else {
		changes = g.Break(m)
	}
	if *request >= 0 {
		fmt.Printf("%s %v\n%v\n", method.FullName(), changes, m)
	}
	if r, ok := m.(*runtimeapi.RemoveImageRequest); ok && r.GetImage().GetImage() == images.Busybox { // all others are about it
		r.Image.Image = tiny
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := f.call(ctx, method, m)
	f.judge(method, number, changes, err)
	if status.Code(err) == codes.Unavailable && !f.Running() {
		return fmt.Errorf("the daemon has ended: %w", err)
	}
	if err != nil && status.Code(err) != codes.OutOfRange && !errors.Is(err, io.EOF) {
		return nil
	}
	return f.undo(ctx, number, answer)
}

// call makes one call; of a stream, all of it, but of events only the beginning.
func (f *fixtures) call(ctx context.Context, method protoreflect.MethodDescriptor, m proto.Message) (proto.Message, error) {
	name := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return nil, err
	}
	answer := kind.New().Interface()
	if !method.IsStreamingServer() && !method.IsStreamingClient() {
		return answer, f.conn.Invoke(ctx, name, m, answer)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: method.IsStreamingServer(), ClientStreams: method.IsStreamingClient()}, name)
	if err != nil {
		return nil, err
	}
	if err := s.SendMsg(m); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := s.CloseSend(); err != nil {
		return nil, err
	}
	if method.Name() == "GetContainerEvents" {
		_, err := s.Header()
		return nil, err
	}
	for err == nil {
		err = s.RecvMsg(answer)
		if method.FullName() == "fermata.v1.Fermata.Attach" { // it goes on for as long as the container does
			return answer, err
		}
		if !method.IsStreamingServer() {
			return answer, err
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return answer, err
}

var variable = regexp.MustCompile(`[0-9a-f]{8,}|[0-9]+|"[^"]*"|[^\x20-\x7e]+`)

// judge notes an answer that no bad request may have.
func (h *hostility) judge(method protoreflect.MethodDescriptor, number int, changes []hostile.Change, err error) {
	code, text := status.Code(err), status.Convert(err).Message()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.codes[code]++
	h.called[string(method.Name())]++
	why := ""
	switch code {
	case codes.OK:
		h.accepted[string(method.Name())]++
		return
	case codes.Unknown:
		if strings.HasPrefix(text, "RegistryUnavailable") { // that is how the kubelet knows it
			return
		}
		why = "the daemon's fault"
	case codes.Unavailable: // the second is for when it is ready again (cri.md 1.2)
		if strings.Contains(text, "RegistryUnavailable") || method.Name() == "PodSandboxStats" && strings.Contains(text, "not ready") {
			return
		}
		why = "the daemon's fault"
	case codes.Internal, codes.DataLoss, codes.Canceled, codes.DeadlineExceeded, codes.Aborted:
		why = "the daemon's fault"
	case codes.InvalidArgument, codes.OutOfRange:
		if len(changes) == 1 && !changes[0].Names(text) && !strings.Contains(text, "the first message must be start") && method.Name() != "LoadImage" { // which names what in the archive is wrong
			why = "no word of " + strings.Join(changes[0].Path[max(0, len(changes[0].Path)-2):], ".")
		}
	}
	if strings.Contains(text, "not implemented") {
		why = "the library's words"
	}
	if why == "" {
		return
	}
	key := fmt.Sprintf("%s: %s: %s: %.150s", why, method.Name(), code, variable.ReplaceAllString(text, "…"))
	if h.wrong[key] == nil {
		h.wrong[key] = &wrong{number: number, text: fmt.Sprintf("%.600s", text), change: fmt.Sprintf("%.300v", changes)}
	}
	h.wrong[key].times++
}

// report fails the test for every answer that ought not to be.
func (h *hostility) report(t *testing.T) {
	t.Helper()
	t.Logf("answers: %v", h.codes)
	t.Logf("accepted: %v", h.accepted)
	for _, key := range slices.Sorted(maps.Keys(h.wrong)) {
		w := h.wrong[key]
		t.Errorf("%d times: %s\n\tfirst: -request %d: %s\n\tanswered %q", w.times, key, w.number, w.change, w.text)
	}
	for _, m := range h.methods {
		if *request < 0 && h.called[string(m.Name())] == 0 {
			t.Errorf("%s was never called", m.FullName())
		}
	}
}

// checkRecords looks for pods that no list shows.
func (h *hostility) checkRecords(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"r/pods", "s/pods"} {
		left, err := os.ReadDir(filepath.Join(h.Dir, dir))
		check(t, err)
		if len(left) != 0 {
			t.Errorf("%d pods left in %s: %v", len(left), dir, left)
		}
	}
}

func residentKB(t *testing.T, w *world) (sum int) {
	t.Helper()
	for _, pid := range w.Processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		check(t, err)
		for line := range strings.Lines(string(b)) {
			var kb int
			if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
				sum += kb
			}
		}
	}
	return sum
}
