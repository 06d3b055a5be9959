package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/undo"
)

// Attach connects a pod by the configured network. The same sandbox again gives the same result. After an error the plugin has been asked to undo
// what it may have done; if it could not, that is a debt.
func (p *Plugins) Attach(ctx context.Context, a endpoint.Attachment) (_ *endpoint.Result, err error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	p.attaching.RLock()
	defer p.attaching.RUnlock()
	defer p.busy.Lock(a.SandboxID)()
	if r := p.get(a.SandboxID); r != nil && r.Result != nil && r.Debt == nil {
		return r.endpoint()
	}
	list, err := p.network()
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", a.SandboxID, err)
	}
	r := &record{
		SandboxID: a.SandboxID, Network: list.Name, Config: string(list.Bytes), Ports: a.Ports, Annotations: a.Annotations,
		PodName: a.PodName, PodNamespace: a.PodNamespace, PodUID: a.PodUID, Created: time.Now().UTC(),
	}
	defer func() {
		if err != nil {
			p.undo(ctx, r)
			err = fmt.Errorf("attach %s: network %s: %w", a.SandboxID, list.Name, err)
		}
	}()
	for _, s := range []struct {
		place string
		do    func() error
	}{
		{"cni-attach/record", func() error { return p.save(r) }},
		{"cni-attach/netns", func() error { return p.bind(r.SandboxID, a.NetNS) }},
		{"cni-attach/add", func() error { return p.add(ctx, list, r) }},
		{"cni-attach/result", func() error { return p.save(r) }},
	} {
		if err := undo.Step(s.place, s.do); err != nil {
			return nil, err
		}
	}
	return r.endpoint()
}

// add asks the plugins and keeps what they answered in r.
func (p *Plugins) add(ctx context.Context, list *libcni.NetworkConfigList, r *record) error {
	ctx, cancel := context.WithTimeoutCause(ctx, addLimit, errs.New(errs.DeadlineExceeded, "the time for a plugin to connect a pod is over"))
	defer cancel()
	answer, err := p.libc.AddNetworkList(ctx, list, p.arguments(r))
	if err != nil {
		return err
	}
	full, err := types100.NewResultFromResult(answer)
	if err != nil {
		return fmt.Errorf("read the plugin's answer: %w", err)
	}
	r.Result = resultOf(full)
	if len(r.Result.IPs) == 0 { // CNI-5
		return fmt.Errorf("the plugins gave interface %s no address", endpoint.Interface)
	}
	return nil
}

// resultOf keeps the addresses of the pod's interface: those that name it, or name none.
func resultOf(answer *types100.Result) *result {
	out := &result{}
	for _, ip := range answer.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(answer.Interfaces) && answer.Interfaces[*i].Name != endpoint.Interface {
			continue
		}
		out.IPs = append(out.IPs, ip.Address.IP.String())
		if ip.Gateway != nil {
			out.Gateways = append(out.Gateways, ip.Gateway.String())
		}
	}
	return out
}

// endpoint is a record's result in the words of package network.
func (r *record) endpoint() (*endpoint.Result, error) {
	out := &endpoint.Result{Interface: endpoint.Interface}
	for _, text := range r.Result.IPs {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("address of sandbox %s: %w", r.SandboxID, err)
		}
		out.IPs = append(out.IPs, ip.Unmap())
	}
	for _, text := range r.Result.Gateways {
		if ip, err := netip.ParseAddr(text); err == nil {
			out.Gateways = append(out.Gateways, ip.Unmap())
		}
	}
	return out, nil
}

// undo asks the plugins to give back what a failed ADD may have taken, apart from the caller's end.
func (p *Plugins) undo(ctx context.Context, r *record) {
	if err := p.release(context.WithoutCancel(ctx), r); err != nil {
		p.o.Log.Error("give back what a failed network plugin took", "sandbox", r.SandboxID, "error", err)
	}
}

// Detach asks the plugins to disconnect a pod. If they cannot, that is a debt and no error: nothing about the pod waits for it. An unknown sandbox is fine.
func (p *Plugins) Detach(ctx context.Context, sandboxID string) error {
	if err := endpoint.CheckID(sandboxID); err != nil {
		return err
	}
	defer p.busy.Lock(sandboxID)()
	r := p.get(sandboxID)
	if r == nil {
		return nil
	}
	return p.release(ctx, r)
}

// release asks for the DEL of a record, and forgets it or makes it a debt. The error is of recording that.
func (p *Plugins) release(ctx context.Context, r *record) error {
	failed := undo.Step("cni-detach/del", func() error { return p.del(ctx, r) })
	if failed == nil {
		return undo.Step("cni-detach/record", func() error { return errors.Join(p.unbind(r.SandboxID), p.drop(r.SandboxID)) })
	}
	now := time.Now().UTC()
	if r.Debt == nil {
		r.Debt = &debt{Since: now}
	} else {
		d := *r.Debt
		r.Debt = &d
	}
	r.Debt.Tries++
	r.Debt.Error = failed.Error()
	r.Debt.Next = now.Add(backOff(r.Debt.Tries))
	if r.Debt.Tries == 1 {
		p.o.Log.Error("a network plugin did not give back what it holds for a pod; it is asked again (fermata debts)",
			"sandbox", r.SandboxID, "pod", r.PodNamespace+"/"+r.PodName, "network", r.Network, "error", failed)
	}
	// The namespace is not kept for it: a plugin is asked without one then, as after a reboot (CNI-6).
	err := errors.Join(p.save(r), p.unbind(r.SandboxID))
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return err
}

func (p *Plugins) del(ctx context.Context, r *record) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), delLimit, errs.New(errs.DeadlineExceeded, "the time for a plugin to disconnect a pod is over"))
	defer cancel()
	list, err := libcni.NetworkConfFromBytes([]byte(r.Config))
	if err != nil {
		return fmt.Errorf("read the recorded configuration: %w", err)
	}
	return p.libc.DelNetworkList(ctx, list, p.arguments(r))
}

// arguments are the plugins' (CNI-3).
func (p *Plugins) arguments(r *record) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: r.SandboxID, IfName: endpoint.Interface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", r.PodNamespace}, {"K8S_POD_NAME", r.PodName},
			{"K8S_POD_INFRA_CONTAINER_ID", r.SandboxID}, {"K8S_POD_UID", r.PodUID},
		},
		CapabilityArgs: map[string]any{"io.kubernetes.cri.pod-annotations": r.Annotations},
	}
	if path := p.netns(r.SandboxID); linux.IsNamespaceFile(path) {
		rt.NetNS = path
	}
	var ports []map[string]any
	for _, m := range r.Ports {
		if m.HostPort == 0 {
			continue
		}
		port := map[string]any{"hostPort": m.HostPort, "containerPort": m.ContainerPort, "protocol": m.Protocol}
		if m.Protocol == "" {
			port["protocol"] = "tcp"
		}
		if m.HostIP.IsValid() {
			port["hostIP"] = m.HostIP.String()
		}
		ports = append(ports, port)
	}
	if ports != nil {
		rt.CapabilityArgs["portMappings"] = ports
	}
	return rt
}

// netns is the name by which plugins know a pod's network namespace.
func (p *Plugins) netns(id string) string {
	return filepath.Join(p.o.NetNSDir, p.mark()+id)
}

// mark begins the names of an instance.
func (p *Plugins) mark() string { return "fermata-" + p.o.Instance + "-" }

// bind gives a network namespace its name.
func (p *Plugins) bind(id string, ns *linux.FD) error {
	path := p.netns(id)
	if linux.IsNamespaceFile(path) {
		return nil
	}
	if err := os.MkdirAll(p.o.NetNSDir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return ns.BindTo(path)
}

// unbind takes the name away; none is fine.
func (p *Plugins) unbind(id string) error {
	path := p.netns(id)
	if linux.IsNamespaceFile(path) {
		if err := linux.Unmount(path); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove name %s of a network namespace: %w", strconv.Quote(path), err)
	}
	return nil
}
