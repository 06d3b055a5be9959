package pod

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// attachable brings up a container with streams of its own.
func (n *node) attachable(change func(*runtimeapi.ContainerConfig)) (string, *fakeStdio) {
	n.t.Helper()
	req := sandboxRequest("a")
	podID := must[string](n.t)(n.RunPodSandbox(n.t.Context(), req))
	c := containerRequest(podID, req, "c")
	change(c.Config)
	id := must[string](n.t)(n.CreateContainer(n.t.Context(), c))
	if err := n.StartContainer(n.t.Context(), id); err != nil {
		n.t.Fatal(err)
	}
	return id, n.withStdio(c.Config.Tty)
}

func (n *node) attach(id string, tty bool) *client {
	return newClient(n.t, tty, func(ctx context.Context, c *client) error { return n.Attach(ctx, id, c.streams) })
}

func withStdin(once bool) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, once }
}

func withTerminal(c *runtimeapi.ContainerConfig) { c.Stdin, c.Tty = true, true }

func TestAttachIsToARunningContainerThatIsAsTheClientSays(t *testing.T) {
	n := newNode(t)
	id, _ := n.attachable(func(*runtimeapi.ContainerConfig) {})
	req := sandboxRequest("b")
	podID := must[string](t)(n.RunPodSandbox(t.Context(), req))
	created := must[string](t)(n.CreateContainer(t.Context(), containerRequest(podID, req, "c")))
	_, ended := n.running("c")
	if err := n.StopContainer(t.Context(), ended, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, id string
		tty      bool
		kind     errs.Kind
		says     string
	}{
		{"before its start", created, false, errs.FailedPrecondition, "not running"},
		{"after its end", ended, false, errs.FailedPrecondition, "not running"},
		{"none", "none", false, errs.NotFound, "none"},
		{"one without a terminal, at one", id, true, errs.InvalidArgument, "tty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := n.Attach(t.Context(), c.id, &Streams{Stdout: io.Discard, TTY: c.tty})
			if !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v that says %q", err, c.kind, c.says)
			}
			if tty, stdin, err := n.Takes(c.id); c.kind != errs.InvalidArgument && (!errs.Is(err, c.kind) || tty || stdin) {
				t.Errorf("takes %v %v %v", tty, stdin, err)
			}
		})
	}
}

func TestAContainersLastWordsReachWhoIsAttached(t *testing.T) {
	n := newNode(t)
	id, stdio := n.attachable(withStdin(false))
	c := n.attach(id, false)
	<-stdio.followed
	last := strings.Repeat("last words ", 5000)
	stdio.write(0, last)
	stdio.write(1, "alas")
	n.runtime.end(Exit{ID: id, Code: 3, Finished: time.Now()}) // told before the output's end, or after
	stdio.end()
	c.sees(0, last) // who is slow to take it
	c.sees(1, "alas")
	if err := c.end(); err != nil {
		t.Error(err)
	}
}

func TestTwoClientsSeeTheSameAndOneLeavesAlone(t *testing.T) {
	n := newNode(t)
	id, stdio := n.attachable(withStdin(true))
	first, second := n.attach(id, false), n.attach(id, false)
	<-stdio.followed
	<-stdio.followed
	stdio.write(0, "to both")
	first.sees(0, "to both")
	second.sees(0, "to both")
	first.types("from the first")
	if got := stdio.read(100); got != "from the first" {
		t.Errorf("the container read %q", got)
	}
	// Nobody reads what the first is given, so its leaving cannot be noticed by that.
	stdio.write(0, "unread")
	second.sees(0, "unread")
	first.leave()
	if err := first.end(); err != nil {
		t.Error(err)
	}
	stdio.write(1, "to the second")
	second.sees(1, "to the second")
	second.types("from the second")
	if got := stdio.read(100); got != "from the second" {
		t.Errorf("the container read %q", got)
	}
	second.leave()
	if err := second.end(); err != nil {
		t.Error(err)
	}
	if n.container(id).State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Error("the container ended with its clients")
	}
}

func TestTheEndOfAClientsInputIsTheContainersOnlyWithStdinOnce(t *testing.T) {
	for name, end := range map[string]func(*client){
		"it says so":   func(c *client) { c.typed.Close() },
		"it is gone":   func(c *client) { c.leave() },
		"it broke off": func(c *client) { c.typed.CloseWithError(io.ErrUnexpectedEOF); c.leave() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			id, stdio := n.attachable(withStdin(true))
			c := n.attach(id, false)
			<-stdio.followed
			c.types("all there is")
			if got := stdio.read(100); got != "all there is" {
				t.Errorf("the container read %q", got)
			}
			end(c)
			if got := stdio.read(100); got != "" {
				t.Errorf("the container read %q after the end", got)
			}
		})
	}
	t.Run("without it the next client goes on", func(t *testing.T) {
		n := newNode(t)
		id, stdio := n.attachable(withStdin(false))
		first := n.attach(id, false)
		<-stdio.followed
		first.types("one ")
		first.typed.Close()
		stdio.write(0, "it still hears")
		first.sees(0, "it still hears")
		first.leave()
		if err := first.end(); err != nil {
			t.Error(err)
		}
		second := n.attach(id, false)
		<-stdio.followed
		second.types("two")
		got := ""
		for len(got) < len("one two") {
			got += stdio.read(100)
		}
		if got != "one two" {
			t.Errorf("the container read %q", got)
		}
	})
}

func TestInputForAContainerThatTakesNoneHoldsNothingUp(t *testing.T) {
	n := newNode(t)
	id, stdio := n.attachable(func(*runtimeapi.ContainerConfig) {})
	c := n.attach(id, false)
	<-stdio.followed
	c.types(strings.Repeat("nobody reads this ", 10_000))
	stdio.write(0, "and yet")
	c.sees(0, "and yet")
}

func TestAClientAtAContainersTerminal(t *testing.T) {
	n := newNode(t)
	id, stdio := n.attachable(withTerminal)
	c := n.attach(id, true)
	<-stdio.followed
	c.types("typed\n")
	if got := stdio.read(100); got != "typed\n" {
		t.Errorf("the container read %q", got)
	}
	c.sizes <- TerminalSize{Width: 111, Height: 37}
	c.sizes <- TerminalSize{Width: 80, Height: 25} // taken: the first is in force
	c.typed.Close()                                // a terminal has no end of file: who leaves it does not log out
	stdio.write(0, "on the screen")
	c.sees(0, "on the screen")
	c.leave()
	if err := c.end(); err != nil {
		t.Error(err)
	}
	second := n.attach(id, true)
	<-stdio.followed
	second.types("again\n")
	if got := stdio.read(100); got != "again\n" {
		t.Errorf("the container read %q", got)
	}
}

func TestAKeeperThatEndsIsSaidToWhoIsAttached(t *testing.T) {
	n := newNode(t)
	id, stdio := n.attachable(withStdin(false))
	c := n.attach(id, false)
	<-stdio.followed
	stdio.end() // and the container goes on
	if err := c.end(); !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), "attach again") {
		t.Errorf("%v", err)
	}
}
