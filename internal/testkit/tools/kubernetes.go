package tools

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// kubernetes is where Kubernetes and etcd are pinned, from this module's root: one module for all of them, because Kubernetes is built
// with replacements that "go mod download" of its own module would not see.
const kubernetes = "tools/kubernetes"

// The packages of the programs that [Kubernetes] builds.
var kubernetesPrograms = map[string]string{
	"kubelet":                 "k8s.io/kubernetes/cmd/kubelet",
	"kubectl":                 "k8s.io/kubernetes/cmd/kubectl",
	"kube-apiserver":          "k8s.io/kubernetes/cmd/kube-apiserver",
	"kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
	"kube-scheduler":          "k8s.io/kubernetes/cmd/kube-scheduler",
	"etcd":                    "go.etcd.io/etcd/server/v3",
}

// Kubernetes returns the path of a program of a Kubernetes node or control plane: kubelet, kubectl, kube-apiserver,
// kube-controller-manager, kube-scheduler or etcd. Building the kubelet takes about four minutes on two cores, all of them ten.
func Kubernetes(ctx context.Context, program string) (string, error) {
	pkg, ok := kubernetesPrograms[program]
	if !ok {
		return "", fmt.Errorf("build %s: not a program of Kubernetes", program)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, kubernetes)
	version, err := pinned(ctx, dir, "k8s.io/kubernetes")
	if err != nil {
		return "", err
	}
	return built("k8s.io/kubernetes@"+version, program, func(out string) error {
		// Kubernetes' own build tells its parts their version by the linker; without it a kubelet says v0.0.0-master.
		flags := "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=" + version
		return run(ctx, dir, "go", "build", "-trimpath", flags, "-o", out, pkg)
	})
}

// pinned returns the version of a module that the module at dir requires.
func pinned(ctx context.Context, dir, mod string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", mod)
	cmd.Dir, cmd.Env = dir, environment()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("version of module %s in %s: %w", mod, dir, err)
	}
	return strings.TrimSpace(string(out)), nil
}
