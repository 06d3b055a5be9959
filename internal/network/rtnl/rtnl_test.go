package rtnl_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"fermata/internal/linux"
	"fermata/internal/network/nettest"
	"fermata/internal/network/rtnl"
)

// dial speaks to a new namespace.
func dial(t *testing.T) (*rtnl.Conn, *linux.Home, *linux.FD) {
	t.Helper()
	home, err := linux.OpenHome()
	if err != nil {
		t.Fatal(err)
	}
	ns := nettest.Namespace(t)
	c, err := rtnl.Dial(home, ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), home.Close()); err != nil {
			t.Error(err)
		}
	})
	return c, home, ns
}

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

func TestLinksAddressesRoutes(t *testing.T) {
	c, _, _ := dial(t)
	if _, err := c.Link("br0"); !errors.Is(err, syscall.ENODEV) || !strings.Contains(err.Error(), "find link br0") {
		t.Fatalf("a link that is not there: %v", err)
	}
	if err := c.Do(rtnl.CreateBridge("br0", mac, 1400)); err != nil {
		t.Fatal(err)
	}
	br, err := c.Link("br0")
	if err != nil || br.Kind != "bridge" || br.MAC.String() != mac.String() || br.MTU != 1400 || br.Up {
		t.Fatalf("%+v, %v", br, err)
	}
	four, six := netip.MustParsePrefix("10.1.0.1/24"), netip.MustParsePrefix("fd00::1/64")
	err = c.Do(rtnl.SetUp("br0", br.Index), rtnl.AddAddress("br0", br.Index, four), rtnl.AddAddress("br0", br.Index, six),
		rtnl.AddDefaultRoute("br0", br.Index, four.Addr().Next()), rtnl.SetMTU("br0", 1300))
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := c.Addresses()
	if err != nil || !slices.Contains(addresses, rtnl.Address{Link: br.Index, Prefix: four}) || !slices.Contains(addresses, rtnl.Address{Link: br.Index, Prefix: six}) {
		t.Errorf("addresses %v, %v", addresses, err)
	}
	routes, err := c.Routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []rtnl.Route{
		{Link: br.Index, To: netip.MustParsePrefix("0.0.0.0/0")}, {Link: br.Index, To: four.Masked()}, {Link: br.Index, To: six.Masked()},
	} {
		if !slices.Contains(routes, want) {
			t.Errorf("routes %v, want %v", routes, want)
		}
	}
	if br, err = c.Link("br0"); err != nil || br.MTU != 1300 || !br.Up {
		t.Errorf("%+v, %v", br, err)
	}
	if err := c.Do(rtnl.DeleteAddress("br0", br.Index, four)); err != nil {
		t.Error(err)
	}
	err = c.Do(rtnl.DeleteAddress("br0", br.Index, four))
	if !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "delete address 10.1.0.1/24 of br0") {
		t.Errorf("an address that is not there: %v", err)
	}
}

func TestARequestThatFailsDoesNotStopTheOthers(t *testing.T) {
	c, _, _ := dial(t)
	err := c.Do(rtnl.CreateBridge("a", mac, 1400), rtnl.CreateBridge("a", mac, 1400), rtnl.SetMTU("nowhere", 1400), rtnl.CreateBridge("b", mac, 1400))
	if !errors.Is(err, syscall.EEXIST) || !errors.Is(err, syscall.ENODEV) || !strings.Contains(err.Error(), "create bridge a") || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Link("b"); err != nil {
		t.Error(err)
	}
	if err := c.Do(rtnl.CreateBridge("a", mac, 1400).Or(syscall.EEXIST), rtnl.DeleteLink("nowhere").Or(syscall.ENODEV)); err != nil {
		t.Errorf("what was forgiven: %v", err)
	}
}

func TestTheKernelsOwnWordsAreInTheError(t *testing.T) {
	c, _, _ := dial(t)
	err := c.Do(rtnl.CreateBridge("a", mac, 1400), rtnl.SetMTU("a", 1<<30))
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "mtu") {
		t.Errorf("got %v", err)
	}
}

func TestManyLinksAreListedWhole(t *testing.T) {
	c, _, _ := dial(t)
	var wg sync.WaitGroup
	for i := range 100 { // more than one datagram of a list
		wg.Go(func() {
			if err := c.Do(rtnl.CreateBridge(fmt.Sprint("br", i), mac, 1400)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	links, err := c.Links()
	if err != nil || len(links) < 101 {
		t.Errorf("%d links, %v", len(links), err)
	}
}

func TestDeleteTellsWhenLinksAreGone(t *testing.T) {
	c, home, ns := dial(t)
	d, err := rtnl.DialForDeletion(home, ns)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	pod := nettest.Bare(t)
	for _, count := range []int{1, 2, 30} {
		var names []string
		for i := range count {
			name := fmt.Sprint("v", i)
			v := rtnl.Veth{Host: name, Peer: name, HostMAC: mac, PeerMAC: mac, NetNS: pod, MTU: 1400}
			if err := c.Do(rtnl.CreateVeth(v)); err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
		if err := c.Do(rtnl.CreateBridge("stays", mac, 1400)); err != nil {
			t.Fatal(err)
		}
		gone := map[string]bool{}
		err := d.Delete(append(names, "never-was"), 77, func(name string) {
			if _, err := c.Link(name); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("%s is said to be gone: %v", name, err)
			}
			gone[name] = true
		})
		if err != nil || len(gone) != count+1 {
			t.Errorf("of %d links told of %v, %v", count, gone, err)
		}
		if _, err := c.Link("stays"); err != nil {
			t.Error(err)
		}
		if err := c.Do(rtnl.DeleteLink("stays")); err != nil {
			t.Error(err)
		}
	}
}
