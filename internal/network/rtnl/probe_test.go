package rtnl

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
)

func newNS(t testing.TB) *linux.FD {
	var ns *linux.FD
	err := linux.OnThrowAwayThread(func() (err error) {
		if err = syscall.Unshare(linux.CloneNewNet); err != nil {
			return err
		}
		ns, err = linux.Open("/proc/thread-self/ns/net", os.O_RDONLY, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestProbe(t *testing.T) {
	home, err := linux.OpenHome()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	host := newNS(t)
	c, err := Dial(home, host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c2, _ := Dial(home, host)
	defer c2.Close()
	if err := c.Do(CreateBridge("br0", net.HardwareAddr{2, 0, 0, 0, 0, 1}, 1400)); err != nil {
		t.Fatal(err)
	}
	br, err := c.Link("br0")
	if err != nil {
		t.Fatal(err)
	}
	c.Do(SetUp("br0", br.Index))
	fmt.Println(br)
	for i := 0; i < 20; i++ {
		pod := newNS(t)
		t0 := time.Now()
		p, err := Dial(home, pod)
		t1 := time.Now()
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("v%d", i)
		err = c.Do(CreateVeth(Veth{Host: name, Peer: "eth0", HostMAC: net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}, PeerMAC: net.HardwareAddr{2, 0, 0, 0, 2, byte(i)}, NetNS: pod, Bridge: br.Index, MTU: 1400}))
		if err != nil {
			t.Fatal(err)
		}
		t2 := time.Now()
		if err := c.Do(SetBridgePort(name, br.Index, "hello")); err != nil {
			t.Fatal(err)
		}
		t3 := time.Now()
		l, err := p.Link("eth0")
		if err != nil {
			t.Fatal(err)
		}
		t4 := time.Now()
		fmt.Println("dial", t1.Sub(t0), "veth", t2.Sub(t1), "port", t3.Sub(t2), "getlink", t4.Sub(t3), l.Index)
		p.Close()
	}
	for i := 0; i < 8; i++ {
		name := fmt.Sprintf("v%d", i)
		t0 := time.Now()
		err := c.Delete([]string{name}, 77, func(n string) { fmt.Println("gone", n, time.Since(t0)) })
		fmt.Println("delete", time.Since(t0), err)
		if _, err := c.Link(name); err == nil {
			t.Fatal("still")
		}
	}
	var all []string
	for i := 8; i < 20; i++ {
		all = append(all, fmt.Sprintf("v%d", i))
	}
	t0 := time.Now()
	err = c.Delete(all, 77, func(n string) { fmt.Println("gone", n, time.Since(t0)) })
	fmt.Println("delete 12", time.Since(t0), err)
	err = c.Delete(all, 77, func(n string) { fmt.Println("gone", n, time.Since(t0)) })
	fmt.Println("delete 12", time.Since(t0), err)
}
