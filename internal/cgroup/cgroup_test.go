package cgroup_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"fermata/internal/cgroup"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	leak.Main(m)
}

// childEnv makes the test binary a process to put into groups; its value says what it does.
const childEnv = "FERMATA_CGROUP_CHILD"

// onTrees runs a test on the machine's tree and, on a hybrid machine, on its v1 hierarchies and on its cgroup2 alone, as on machines without the
// other.
func onTrees(t *testing.T, test func(t *testing.T, tree *cgroup.Tree)) {
	t.Helper()
	tree, err := cgroup.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	t.Run(tree.Mode().String(), func(t *testing.T) { test(t, machine(t)) })
	if tree.Mode() != cgroup.Hybrid {
		return
	}
	for _, version := range []cgroup.Mode{cgroup.V1, cgroup.V2} {
		t.Run("its "+version.String()+" alone", func(t *testing.T) {
			only, err := cgroup.OpenOnly(version)
			test(t, opened(t, only, err))
		})
	}
}

func opened(t *testing.T, tree *cgroup.Tree, err error) *cgroup.Tree {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	t.Logf("mode %v, controllers %v, missing %v", tree.Mode(), tree.Controllers(), tree.Missing())
	return tree
}

// machine opens the machine's own tree.
func machine(t *testing.T) *cgroup.Tree {
	t.Helper()
	tree, err := cgroup.Open()
	return opened(t, tree, err)
}

// needs ends a test that the tree cannot do, for want of a controller. It is for controllers that a machine may really lack.
func needs(t *testing.T, tree *cgroup.Tree, controllers ...string) {
	t.Helper()
	for _, c := range controllers {
		if !slices.Contains(tree.Controllers(), c) {
			t.Skipf("no %s controller in this tree (%v)", c, tree.Controllers())
		}
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// group creates a group below a parent of the test's own; both are killed and removed at the end.
func group(t *testing.T, tree *cgroup.Tree) *cgroup.Group {
	t.Helper()
	id := make([]byte, 6)
	rand.Read(id)
	parent := "/fermata-test-" + hex.EncodeToString(id)
	t.Cleanup(func() {
		g, ctx := tree.Group(parent), deadline(t)
		if err := g.Kill(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
		if err := g.Remove(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	g, err := tree.Create(parent + "/pod/container")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// feed and answers are the ends of a started child's standard input and output.
var (
	feed    = map[*exec.Cmd]io.Writer{}
	answers = map[*exec.Cmd]io.Reader{}
)

// eat lets a child that is to take memory do so.
func eat(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	feed[cmd].Write([]byte{1})
	if _, err := answers[cmd].Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// start starts this binary as a child in a group, by the descriptors of Join, as the stage does.
func start(t *testing.T, g *cgroup.Group, what string, args ...string) *exec.Cmd {
	t.Helper()
	j, err := g.Join()
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{childEnv + "=" + what}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // the child ends when the test does
	if err != nil {
		t.Fatal(err)
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	feed[cmd], answers[cmd] = stdin, ready
	for _, p := range j.Procs {
		d, err := p.Dup()
		if err != nil {
			t.Fatal(err)
		}
		f := d.File()
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if j.Dir != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: j.Dir.Int()}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := g.Kill(deadline(t)); err != nil { // not cmd.Process.Kill: it may be frozen
			t.Errorf("clean up: %v", err)
		}
		cmd.Wait()
	})
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("child %q: %v, %v", what, err, cmd.Wait())
	}
	return cmd
}
