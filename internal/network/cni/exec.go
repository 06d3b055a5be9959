package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"fermata/internal/errs"
)

// outputGrace is how long a plugin's output is still read after it ended: something that it started may hold it open.
const outputGrace = time.Second

// executor runs plugins. Unlike libcni's it ends with the context whatever the plugin does: the plugin is killed with its process group, and output
// that something else holds open is not waited for.
type executor struct {
	version.PluginDecoder

	mu      sync.Mutex
	working map[*Work]bool
}

var _ invoke.Exec = (*executor)(nil)

// ExecPlugin implements [invoke.Exec]. Its errors, or libcni around them, name the plugin and what it was asked.
func (e *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	defer e.begin(path, environ)()
	out, err := e.run(ctx, path, stdin, environ)
	return out, errs.Blame(err, culprit, filepath.Base(path))
}

// culprit is what plugins are called.
const culprit = "CNI plugin"

func (e *executor) run(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	began := time.Now()
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputGrace
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return stdout.Bytes(), nil
	}
	what := ""
	switch verb := command(environ); verb {
	case "ADD", "CHECK", "DEL": // libcni names the plugin in its own words
	default:
		what = fmt.Sprintf("plugin %s: %s: ", filepath.Base(path), verb)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%sdid not answer for %v and was killed: %w", what, time.Since(began).Round(time.Millisecond), context.Cause(ctx))
	}
	var told types.Error // a plugin says on its output what is wrong (CNI specification, "Error")
	if json.Unmarshal(stdout.Bytes(), &told) == nil && (told.Msg != "" || told.Code != 0) {
		return nil, fmt.Errorf("%s%w", what, &told)
	}
	return nil, fmt.Errorf("%s%w: %s", what, err, lastLines(stderr.String()))
}

// command is what a plugin is asked to do.
func command(environ []string) string { return value(environ, "CNI_COMMAND") }

// value is that of an environment's variable.
func value(environ []string, name string) string {
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// lastLines is the end of what a plugin wrote, short enough for an error.
func lastLines(text string) string {
	const most = 400
	text = strings.TrimSpace(text)
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}

// FindInPath implements [invoke.Exec].
func (e *executor) FindInPath(plugin string, paths []string) (string, error) {
	path, err := invoke.FindInPath(plugin, paths)
	return path, errs.Blame(err, culprit, plugin)
}

// Work is a plugin at work.
type Work struct {
	Plugin, Verb, SandboxID string
	Since                   time.Time
}

// begin remembers that a plugin works until the returned function is called.
func (e *executor) begin(path string, environ []string) (end func()) {
	w := &Work{Plugin: filepath.Base(path), Verb: command(environ), SandboxID: value(environ, "CNI_CONTAINERID"), Since: time.Now()}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.working == nil {
		e.working = map[*Work]bool{}
	}
	e.working[w] = true
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.working, w)
	}
}

// Working returns what a plugin does for a sandbox right now.
func (p *Plugins) Working(sandboxID string) (Work, bool) {
	p.exec.mu.Lock()
	defer p.exec.mu.Unlock()
	for w := range p.exec.working {
		if w.SandboxID == sandboxID {
			return *w, true
		}
	}
	return Work{}, false
}
