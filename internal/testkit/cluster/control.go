package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"fermata/internal/testkit/tools"
)

// The networks that nobody outside of the cluster sees.
const (
	podNetwork     = "10.140.0.0/16,fd00:140::/48"
	serviceNetwork = "10.141.0.0/24,fd00:141::/112"
)

// startControl starts etcd, the API server, and what acts through it.
func (c *Cluster) startControl(ctx context.Context, a *authority) error {
	host, server := c.fabric.host, c.server()
	etcd := fmt.Sprintf("http://%s:2379", host)
	if err := c.control1(ctx, "etcd", nil, "--data-dir", filepath.Join(c.Dir, "etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", fmt.Sprintf("http://%s:2380", host)); err != nil {
		return err
	}
	if err := c.startAPI(ctx, a, etcd); err != nil {
		return err
	}
	admin, err := a.kubeconfig("admin", server, "admin", "system:masters")
	if err != nil {
		return err
	}
	c.Kubeconfig = admin
	manager, err := a.kubeconfig("manager", server, "system:kube-controller-manager")
	if err != nil {
		return err
	}
	scheduler, err := a.kubeconfig("scheduler", server, "system:kube-scheduler")
	if err != nil {
		return err
	}
	return errors.Join(
		c.control1(ctx, "kube-controller-manager", nil, "--kubeconfig", manager, "--leader-elect=false", "--secure-port=0",
			"--use-service-account-credentials", "--service-account-private-key-file", a.keyOf("accounts"), "--root-ca-file", a.bundle(),
			"--allocate-node-cidrs", "--cluster-cidr", podNetwork, "--service-cluster-ip-range", serviceNetwork),
		c.control1(ctx, "kube-scheduler", nil, "--kubeconfig", scheduler, "--leader-elect=false", "--secure-port=0"),
	)
}

// server is the API server's address.
func (c *Cluster) server() string { return fmt.Sprintf("https://%s:6443", c.fabric.host) }

// startAPI starts the API server and waits for its bootstrap roles, without which nobody but an administrator may do anything.
func (c *Cluster) startAPI(ctx context.Context, a *authority, etcd string) error {
	host, server := c.fabric.host, c.server()
	serving, err := a.issue("apiserver", "kube-apiserver", nil, host, netip.MustParseAddr("10.141.0.1"))
	if err != nil {
		return err
	}
	toKubelets, err := a.issue("apiserver-kubelets", "kube-apiserver", []string{"system:masters"})
	if err != nil {
		return err
	}
	if _, err := a.issue("accounts", "service-accounts", nil); err != nil {
		return err
	}
	if c.client, err = a.client(toKubelets); err != nil {
		return err
	}
	ready := func(ctx context.Context) error { return get(ctx, c.client, server+"/readyz") }
	return c.control1(ctx, "kube-apiserver", ready, "--etcd-servers", etcd, "--bind-address", host.String(), "--advertise-address", host.String(),
		"--secure-port=6443", "--tls-cert-file", serving.certificate, "--tls-private-key-file", serving.key, "--client-ca-file", a.bundle(),
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-client-certificate", toKubelets.certificate, "--kubelet-client-key", toKubelets.key, "--kubelet-certificate-authority", a.bundle(),
		"--service-account-issuer", server, "--service-account-key-file", a.keyOf("accounts"), "--service-account-signing-key-file", a.keyOf("accounts"),
		"--service-cluster-ip-range", serviceNetwork, "--profiling=false")
}

// control1 starts a program of the control plane and waits until it is ready; nil: nothing is waited for.
func (c *Cluster) control1(ctx context.Context, program string, ready func(context.Context) error, args ...string) error {
	path, err := tools.Kubernetes(ctx, program)
	if err != nil {
		return err
	}
	p, err := begin(c.Dir, program, append([]string{path}, args...)...)
	if err != nil {
		return err
	}
	c.control = append(c.control, p)
	if ready == nil {
		return nil
	}
	return p.until(ctx, ready)
}

// keyOf is the private key of a certificate that was issued.
func (a *authority) keyOf(file string) string { return filepath.Join(a.dir, file+".key") }

// kubeconfig issues a client's certificate and writes the file by which it finds the API server.
func (a *authority) kubeconfig(file, server, name string, groups ...string) (string, error) {
	id, err := a.issue(file, name, groups)
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.dir, file+".kubeconfig")
	return path, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {client-certificate: %q, client-key: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, server, a.bundle(), id.certificate, id.key), 0o600)
}

// client speaks HTTPS as somebody. It keeps no connections, so that a test has none open at its end.
func (a *authority) client(id identity) (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(id.certificate, id.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, answer.Status)
	}
	return nil
}

// Command is kubectl with arguments, to be run as the caller likes. What ends ctx ends it.
func (c *Cluster) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := tools.Kubernetes(ctx, "kubectl")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	// Its cache of the API's description is below HOME: several clusters have several.
	cmd.Env = append(append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "HOME="+c.Dir), c.Environment...)
	return cmd, nil
}

// Kubectl runs kubectl to its end and returns what it wrote to stdout.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.Apply(ctx, "", args...)
}

// Apply is Kubectl with something at its stdin, such as a manifest for "apply -f -".
func (c *Cluster) Apply(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd, err := c.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	var out, failure strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &failure
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, failure.String())
	}
	return out.String(), nil
}
