package network_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/linux"
	"fermata/internal/network"
	"fermata/internal/network/nettest"
)

func TestAPodsLifeByTheFacade(t *testing.T) { life(t, nettest.Namespace(t)) }

// The process's own namespace is the host unless told otherwise: this test runs itself again in a namespace of its own.
func TestAPodsLifeInTheProcessesOwnNamespace(t *testing.T) {
	const again = "FERMATA_TEST_OWN_NETNS"
	if os.Getenv(again) != "" {
		if links, err := net.Interfaces(); err != nil || len(links) > 3 || links[0].Flags&net.FlagUp != 0 { // lo down: new. Others: fallback tunnels
			t.Fatalf("not in a new namespace: %v, %v", links, err)
		}
		life(t, nil)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), again+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

// life attaches, looks, detaches, tears down.
func life(t *testing.T, host *linux.FD) {
	pod, root := nettest.Bare(t), t.TempDir()
	n, err := network.Open(network.Options{State: t.TempDir(), Root: root, Instance: "facade", Subnet: "10.3.0.0/24, fd03::/64", HostNetNS: host})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := n.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := n.Attach(t.Context(), network.Attachment{SandboxID: "one", NetNS: pod, PodName: "web"})
	if err != nil || r.Interface != "eth0" || fmt.Sprint(r.IPs) != "[10.3.0.2 fd03::2]" {
		t.Fatalf("%+v, %v", r, err)
	}
	lease := filepath.Join(root, "network", "leases", "one.json")
	if _, err := os.Stat(lease); err != nil {
		t.Error(err)
	}
	if c, err := network.Interfaces(pod); err != nil || len(c) != 1 || c[0].Name != "eth0" {
		t.Errorf("%+v, %v", c, err)
	}
	if err := n.SetPodCIDR("10.4.0.0/24"); err != nil {
		t.Error(err)
	}
	if found, err := n.Reconcile(t.Context(), func(string) bool { return true }); err != nil || len(found) != 0 {
		t.Errorf("%q, %v", found, err)
	}
	if err := n.Detach(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(lease); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := n.Teardown(t.Context()); err != nil {
		t.Error(err)
	}
	if host == nil {
		if _, err := net.InterfaceByName("fermata0"); err == nil {
			t.Error("the bridge is left")
		}
		return
	}
	if c, err := network.Interfaces(host); err != nil || len(c) != 0 {
		t.Errorf("links left: %+v, %v", c, err)
	}
}
