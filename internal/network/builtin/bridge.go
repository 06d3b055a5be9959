package builtin

import (
	"context"
	"errors"

	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
)

type Options struct {
	Dir                               string
	Bridge, Subnet, Subnet6, Instance string
	HostNetNS                         *linux.FD
}
type Bridge struct{}

var errTodo = errors.New("not yet")

func Open(o Options) (*Bridge, error) { return nil, errTodo }
func (b *Bridge) Close() error        { return errTodo }
func (b *Bridge) Attach(ctx context.Context, a endpoint.Attachment) (*endpoint.Result, error) {
	return nil, errTodo
}
func (b *Bridge) Detach(ctx context.Context, id string) error { return errTodo }
func (b *Bridge) Status() error                               { return errTodo }
func (b *Bridge) SetPodCIDR(cidr string) error                { return errTodo }
func (b *Bridge) Reconcile(ctx context.Context, live func(string) bool) ([]string, error) {
	return nil, errTodo
}
func (b *Bridge) Teardown(ctx context.Context) error { return errTodo }
func Loopback(netns *linux.FD) error                 { return errTodo }

type Counters struct {
	Name                                                                             string
	RxBytes, TxBytes, RxPackets, TxPackets, RxErrors, TxErrors, RxDropped, TxDropped uint64
}

func Interfaces(netns *linux.FD) ([]Counters, error) { return nil, errTodo }
