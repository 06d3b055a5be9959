// Package tools builds the foreign programs that tests use (crictl and critest, Kubernetes, and the peers containerd and the CNI plugins)
// from their modules, into a cache directory, once a version.
//
// What Debian packages (runc, crun, busybox, kernels, …) is fetched by [Unpack] without being installed. What belongs elsewhere:
// starting a runtime (package node), the images (package images).
package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The versions built. A change builds anew: the version is part of the cache's path.
const (
	criTools   = "sigs.k8s.io/cri-tools@v1.36.0"
	containerd = "github.com/containerd/containerd/v2@v2.4.2"
	plugins    = "github.com/containernetworking/plugins@v1.9.1"
	ginkgo     = "github.com/onsi/ginkgo/v2@v2.28.1" // cri-tools' version, with which critest runs its parts in parallel
)

// Cache returns the directory below which everything built or fetched is kept, making it when absent: $XDG_CACHE_HOME/fermata or
// ~/.cache/fermata.
func Cache() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/root/.cache" // no HOME, as under some CI
	}
	dir := filepath.Join(base, "fermata")
	return dir, os.MkdirAll(dir, 0o755)
}

// Crictl returns the path of crictl.
func Crictl(ctx context.Context) (string, error) { return build(ctx, criTools, "cmd/crictl") }

// Critest returns the path of critest, built with other contents for some of its source files ("pkg/validate/consts.go"); key names
// the set in the cache.
func Critest(ctx context.Context, key string, contents map[string][]byte) (string, error) {
	return built(criTools, "critest-"+key, func(out string) error {
		dir, err := module(ctx, criTools)
		if err != nil {
			return err
		}
		// A copy, because "go build -overlay" refuses files of the module cache.
		source := out + ".src"
		defer os.RemoveAll(source)
		if err := errors.Join(os.RemoveAll(source), os.CopyFS(source, os.DirFS(dir))); err != nil {
			return err
		}
		for name, data := range contents {
			if err := os.WriteFile(filepath.Join(source, name), data, 0o644); err != nil {
				return err
			}
		}
		return run(ctx, source, "go", "test", "-c", "-trimpath", "-o", out, "./cmd/critest")
	})
}

// Ginkgo returns the path of ginkgo, which critest looks for in $PATH when it is to run in parallel.
func Ginkgo(ctx context.Context) (string, error) { return build(ctx, ginkgo, "ginkgo") }

// CriToolsFile returns the path of a source file of cri-tools.
func CriToolsFile(ctx context.Context, name string) (string, error) {
	dir, err := module(ctx, criTools)
	return filepath.Join(dir, name), err
}

// Containerd returns the path of containerd; its shim is beside it.
func Containerd(ctx context.Context) (string, error) {
	if _, err := build(ctx, containerd, "cmd/containerd-shim-runc-v2"); err != nil {
		return "", err
	}
	return build(ctx, containerd, "cmd/containerd")
}

// Plugins returns the directory with the CNI plugins bridge, loopback, host-local and portmap.
func Plugins(ctx context.Context) (string, error) {
	var path string
	for _, p := range []string{"main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"} {
		var err error
		if path, err = build(ctx, plugins, "plugins/"+p); err != nil {
			return "", err
		}
	}
	return filepath.Dir(path), nil
}

// Own builds a program of this module, static, and returns its path. The Go tool's own cache makes it cheap, so that it is always
// built.
func Own(ctx context.Context, pkg string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	out := filepath.Join(cache, "own", filepath.Base(pkg))
	return out, run(ctx, root, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./"+pkg)
}

// Root returns the directory of this module's go.mod, from the working directory upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", errors.New("find go.mod: not below the module's root")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// build makes one command of a module.
func build(ctx context.Context, mod, pkg string) (string, error) {
	return built(mod, filepath.Base(pkg), func(out string) error {
		dir, err := module(ctx, mod)
		if err != nil {
			return err
		}
		return run(ctx, dir, "go", "build", "-trimpath", "-o", out, "./"+pkg)
	})
}

// built returns the cached program, making it when absent. Two processes that want it at once make it once.
func built(mod, name string, make func(out string) error) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tools", strings.NewReplacer("/", "_").Replace(mod))
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := make(path + ".new"); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

// module returns the directory of a module's source in the module cache.
func module(ctx context.Context, mod string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", mod)
	cmd.Dir, cmd.Env = os.TempDir(), environment()
	out, err := cmd.Output()
	var m struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &m); jsonErr != nil || m.Error != "" || err != nil {
		return "", fmt.Errorf("download module %s: %w %s", mod, errors.Join(err, jsonErr), m.Error)
	}
	return m.Dir, nil
}

func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// environment is ours without what would make a foreign module build differently.
func environment() []string { return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off") }

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
