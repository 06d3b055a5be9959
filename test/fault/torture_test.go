package fault

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What `make fault` does of it; `make torture` does all: see the Makefile.
var (
	opsFlag   = flag.Int("ops", 300, "operations of the torture")
	killsFlag = flag.Int("kills", 30, "kills during them")
	linesFlag = flag.Int("lines", 500_000, "lines that containers log meanwhile, at least")
	seedFlag  = flag.Uint64("seed", 4, "of the torture's random choices")
)

// torturers is how many clients ask at once.
const torturers = 8

// torture is what the clients and the killer share.
type torture struct {
	w      *world
	t      *testing.T
	writer string
	quota  int // lines of a container, about
	due    chan struct{}

	// kills counts beginnings and ends: odd while something is dead. A request in whose time it changes may fail, and is made again.
	kills atomic.Int64
	tally tally
}

// tally is what was done and seen.
type tally struct {
	ops, lines, exits, retries atomic.Int64
	// marked are logs that say that their container's last words may be missing; silenced are exits by a signal that the client had sent.
	// Of some that say so nothing is missing: alarms.
	marked, alarms, silenced atomic.Int64

	mu                 sync.Mutex // guards what follows
	by                 map[string]int
	slowest            map[string]time.Duration
	killed             map[string]int
	toDaemon, toKeeper time.Duration // from a kill to the next, at most
}

// Many clients do at random what kubelets do while daemon, keeper and pauses are killed: no exit code and no line of a log is lost, and nothing is left.
func TestTorture(t *testing.T) {
	w := start(t, "")
	to := &torture{w: w, t: t, writer: w.writer(t), due: make(chan struct{}, 1)}
	to.quota = max(1, *linesFlag*8 / *opsFlag)
	to.tally.by, to.tally.slowest, to.tally.killed = map[string]int{}, map[string]time.Duration{}, map[string]int{}
	t.Logf("seed %d: %d operations by %d clients, %d kills, %d lines", *seedFlag, *opsFlag, torturers, *killsFlag, *linesFlag)
	bystander := newBystander(t, w)
	w.baseline(t)

	conn, err := grpc.NewClient(w.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}}))
	check(t, err)
	defer conn.Close()
	began := time.Now()
	var clients, killer sync.WaitGroup
	killer.Go(to.kill)
	for i := range torturers {
		clients.Go(func() { newTorturer(to, conn, i).work() })
	}
	clients.Wait()
	close(to.due)
	killer.Wait()
	to.tell(time.Since(began))
	if t.Failed() {
		return
	}
	if _, bystander.pausePI, err = bystander.pids(t.Context()); err != nil { // it may have another pause now
		t.Errorf("the bystander: %v", err)
	}
	if err := bystander.unharmed(t.Context()); err != nil {
		t.Errorf("the bystander: %v", err)
	}
	bystander.checkLog(t)
	if said, err := w.Doctor(t.Context()); err != nil {
		t.Errorf("doctor: %v\n%s", err, said)
	}
	left, err := w.left(t.Context())
	check(t, err)
	if len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
}

// tell says what was done.
func (to *torture) tell(took time.Duration) {
	y := &to.tally
	to.t.Logf("%d operations, %v kills in %v: %d exits, all codes as they should be (%d by our own signal); %d lines: none missing, none twice, none torn (%d logs lack their last, and say so; %d more say so); "+
		"%d requests repeated; another daemon ready after %v at most, another keeper after %v at most", y.ops.Load(), y.killed, took.Round(time.Second), y.exits.Load(), y.silenced.Load(), y.lines.Load(), y.marked.Load(), y.alarms.Load(),
		y.retries.Load(), y.toDaemon.Round(time.Millisecond), y.toKeeper.Round(time.Millisecond))
	for _, op := range operations {
		to.t.Logf("  %-12s %4d, the slowest %v", op.name, y.by[op.name], y.slowest[op.name].Round(time.Millisecond))
	}
	if int(y.lines.Load()) < *linesFlag {
		to.t.Errorf("only %d lines were logged, not %d", y.lines.Load(), *linesFlag)
	}
}

// did counts an operation, and waits for the killer if it is his turn.
func (to *torture) did(op string, took time.Duration) {
	to.tally.mu.Lock()
	to.tally.by[op]++
	to.tally.slowest[op] = max(to.tally.slowest[op], took)
	to.tally.mu.Unlock()
	every := int64(max(1, *opsFlag / *killsFlag))
	if n := to.tally.ops.Add(1); n%every == 0 && n/every <= int64(*killsFlag) {
		to.due <- struct{}{}
	}
}

// kill kills at random whenever it is due.
func (to *torture) kill() {
	random := rand.New(rand.NewPCG(*seedFlag, torturers))
	ways := []struct {
		name string
		do   func() error
	}{
		{"daemon", to.killDaemon}, {"keeper", to.killKeeper}, {"both", func() error { return to.killBoth(random) }}, {"pause", func() error { return to.killPause(random) }},
	}
	for range to.due {
		time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond) // at any moment of what is being done
		way := ways[random.IntN(len(ways))]
		to.kills.Add(1)
		err := way.do()
		to.kills.Add(1)
		if err != nil {
			to.t.Errorf("kill %s: %v", way.name, err)
		}
		to.tally.mu.Lock()
		to.tally.killed[way.name]++
		to.tally.mu.Unlock()
	}
}

func (to *torture) killDaemon() error { return errors.Join(to.w.Kill(), to.restart()) }

func (to *torture) restart() error {
	began := time.Now()
	err := to.w.Restart(context.Background())
	to.tally.mu.Lock()
	defer to.tally.mu.Unlock()
	to.tally.toDaemon = max(to.tally.toDaemon, time.Since(began))
	return err
}

func (to *torture) killKeeper() error {
	old, began := to.keeper(), time.Now()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return fmt.Errorf("keeper %d: %w", old, err)
	}
	for now := 0; now == 0 || now == old; now = to.keeper() {
		if time.Since(began) > 20*time.Second {
			return errors.New("no other keeper is started")
		}
		time.Sleep(time.Millisecond)
	}
	// It has taken over once it answers.
	if _, err := to.w.CRI.RuntimeConfig(context.Background(), &runtimeapi.RuntimeConfigRequest{}); err != nil {
		return err
	}
	to.tally.mu.Lock()
	defer to.tally.mu.Unlock()
	to.tally.toKeeper = max(to.tally.toKeeper, time.Since(began))
	return nil
}

// killBoth kills one, and the other before or after the first's successor is there.
func (to *torture) killBoth(random *rand.Rand) error {
	keeper := to.keeper()
	if random.IntN(2) == 0 {
		return errors.Join(to.w.Kill(), syscall.Kill(keeper, syscall.SIGKILL), to.restart())
	}
	return errors.Join(syscall.Kill(keeper, syscall.SIGKILL), to.w.Kill(), to.restart())
}

// killPause kills the pause of one pod.
func (to *torture) killPause(random *rand.Rand) error {
	pods, err := to.w.CRI.ListPodSandbox(context.Background(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil || len(pods.GetItems()) == 0 {
		return err
	}
	pod := pods.GetItems()[random.IntN(len(pods.GetItems()))]
	status, err := to.w.CRI.PodSandboxStatus(context.Background(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod.GetId(), Verbose: true})
	if err != nil {
		return nil //nolint:nilerr // its client has removed it meanwhile
	}
	pid, err := strconv.Atoi(pidOf(status.GetInfo()["info"]))
	if err != nil || pid == 0 {
		return err
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(comm)) != "pause" {
		return nil //nolint:nilerr // it has ended meanwhile
	}
	syscall.Kill(pid, syscall.SIGKILL)
	return nil
}

// keeper is the keeper's process; 0 if there is none.
func (to *torture) keeper() int {
	for _, pid := range to.w.Processes() {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if strings.HasPrefix(filepath.Base(exe), "fermata-keeper") {
			return pid
		}
	}
	return 0
}
