package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Netlink families, netlink(7).
const (
	NetlinkRoute     = unix.NETLINK_ROUTE
	NetlinkNetfilter = unix.NETLINK_NETFILTER
)

// Home is a network namespace to return to after a visit to another one.
type Home struct {
	ns *FD
}

// OpenHome makes the network namespace of the process's ordinary threads the one to return to: those that run goroutines which are not
// locked to one.
func OpenHome() (*Home, error) {
	var h Home
	var err error
	done := make(chan struct{})
	go func() { // the caller's may be locked to a thread that lives elsewhere
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		h.ns, err = Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	}()
	<-done
	if err != nil {
		return nil, err
	}
	return &h, nil
}

// NS returns the namespace, which stays owned by h.
func (h *Home) NS() *FD { return h.ns }

// Close lets go of the namespace. A nil Home has nothing to close.
func (h *Home) Close() error {
	if h == nil {
		return nil
	}
	return h.ns.Close()
}

// Visit runs do on a thread that is inside the network namespace ns: sockets made there belong to ns for ever, and /proc/sys/net shows
// its settings. do must not start goroutines that rely on it. It is cheaper than [OnThrowAwayThread] by the making of a thread; a
// thread that cannot return ends instead of being used again.
func (h *Home) Visit(ns *FD, do func() error) error {
	done := make(chan error, 1)
	go func() { // on a goroutine of its own, as a caller may itself be locked to a thread that lives elsewhere
		runtime.LockOSThread()
		if err := ns.Setns(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread() // still at home
			done <- err
			return
		}
		err := do()
		if back := h.ns.Setns(unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} // else it stays locked: the runtime ends the thread with the goroutine
		done <- err
	}()
	return <-done
}

// NetlinkSocket makes a netlink socket in the calling thread's network namespace, bound to a port the kernel chooses. Acknowledgements come
// without the request and with the kernel's own words (NETLINK_CAP_ACK, NETLINK_EXT_ACK; Linux 4.12).
func NetlinkSocket(family int) (*FD, error) {
	s, err := retryFD("open", "netlink socket", func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	})
	if err != nil {
		return nil, err
	}
	for _, option := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK} {
		if err := unix.SetsockoptInt(s.Int(), unix.SOL_NETLINK, option, 1); err != nil {
			s.Close()
			return nil, fmt.Errorf("set option %d of netlink socket: %w", option, err)
		}
	}
	return s, nil
}

// SendNetlink sends one datagram of requests to the kernel. The kernel has performed them all when it returns.
func (f *FD) SendNetlink(p []byte) error {
	err := retry(func() error { return unix.Sendto(f.Int(), p, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) })
	if err != nil {
		return fmt.Errorf("send to %s: %w", f.Name(), err)
	}
	return nil
}

// NetlinkBuffer is a size that every datagram of the kernel fits in: dumps grow to the reader's buffer and stop at 32 KiB.
const NetlinkBuffer = 64 << 10

// ReceiveNetlink receives one datagram into p, which should have [NetlinkBuffer] bytes (EMSGSIZE: it had too few). It never waits: what
// answers a request is there once [FD.SendNetlink] returned, and a dump goes on as it is read. Nothing there is EAGAIN.
func (f *FD) ReceiveNetlink(p []byte) ([]byte, error) {
	var n, flags int
	err := retry(func() (err error) {
		n, _, flags, _, err = unix.Recvmsg(f.Int(), p, nil, unix.MSG_DONTWAIT)
		return err
	})
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = unix.EMSGSIZE
	}
	if err != nil {
		return nil, fmt.Errorf("receive from %s: %w", f.Name(), err)
	}
	return p[:n], nil
}

// AwaitNetlink waits until there is something to receive, or for a while; it says which. Whoever calls it knows that something should
// come, and asks otherwise if nothing does (a full buffer loses messages).
func (f *FD) AwaitNetlink(atMost time.Duration) (bool, error) {
	var n int
	err := retry(func() (err error) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(f.Int()), Events: unix.POLLIN}}, int(atMost.Milliseconds()))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("wait for %s: %w", f.Name(), err)
	}
	return n > 0, nil
}

// HearLinks starts or stops the receiving of news about links (RTNLGRP_LINK).
func (f *FD) HearLinks(on bool) error {
	option := unix.NETLINK_ADD_MEMBERSHIP
	if !on {
		option = unix.NETLINK_DROP_MEMBERSHIP
	}
	if err := unix.SetsockoptInt(f.Int(), unix.SOL_NETLINK, option, unix.RTNLGRP_LINK); err != nil {
		return fmt.Errorf("hear of links by %s: %w", f.Name(), err)
	}
	return nil
}

// OnlyDeletions makes the socket f receive nothing but answers and news of deleted links, and gives it room for many: a busy host has
// more to tell of links than a socket holds.
func (f *FD) OnlyDeletions() error {
	// A classic BPF program sees numbers as big-endian: the type of the message is turned round.
	kind := func(n uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n)))
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4}, // nlmsg_type
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: kind(unix.NLMSG_ERROR)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: kind(unix.RTM_DELLINK)},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err := unix.SetsockoptSockFprog(f.Int(), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		return fmt.Errorf("filter %s: %w", f.Name(), err)
	}
	const room = 8 << 20
	if err := unix.SetsockoptInt(f.Int(), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room); errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(f.Int(), unix.SOL_SOCKET, unix.SO_RCVBUF, room) // in a user namespace: up to net.core.rmem_max
		if err != nil {
			return fmt.Errorf("enlarge %s: %w", f.Name(), err)
		}
	} else if err != nil {
		return fmt.Errorf("enlarge %s: %w", f.Name(), err)
	}
	return nil
}
