package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"fermata/internal/network/endpoint"
)

// longestPause between two tries to pay a debt.
const longestPause = time.Minute

// backOff is the pause after so many tries: 1, 2, 4 … seconds.
func backOff(tries int) time.Duration {
	return min(longestPause, time.Second<<min(tries-1, 10))
}

// Debts lists what plugins owe, the oldest first.
func (p *Plugins) Debts() []endpoint.Debt {
	var all []endpoint.Debt
	for _, r := range p.all() {
		if d := r.Debt; d != nil {
			all = append(all, endpoint.Debt{
				SandboxID: r.SandboxID, PodName: r.PodName, PodNamespace: r.PodNamespace, Network: r.Network,
				Since: d.Since, Next: d.Next, Tries: d.Tries, Error: d.Error,
			})
		}
	}
	slices.SortFunc(all, func(a, b endpoint.Debt) int { return a.Since.Compare(b.Since) })
	return all
}

// Pay asks for every debt now, whenever it would be due, and returns why the remaining ones remain.
func (p *Plugins) Pay(ctx context.Context) error {
	var failed []error
	for _, d := range p.Debts() {
		if err := ctx.Err(); err != nil {
			return err
		}
		failed = append(failed, p.payOne(ctx, d.SandboxID))
	}
	return errors.Join(failed...)
}

// payOne asks for one debt.
func (p *Plugins) payOne(ctx context.Context, id string) error {
	defer p.busy.Lock(id)()
	r := p.get(id)
	if r == nil || r.Debt == nil {
		return nil // paid meanwhile
	}
	if err := p.release(ctx, r); err != nil {
		return err
	}
	if r := p.get(id); r != nil && r.Debt != nil {
		return fmt.Errorf("network %s still holds sandbox %s: %s", r.Network, id, r.Debt.Error)
	}
	return nil
}

// pay asks for debts when they are due, until Close.
func (p *Plugins) pay() {
	for {
		pause := longestPause
		for _, d := range p.Debts() {
			if wait := time.Until(d.Next); wait > 0 {
				pause = min(pause, wait)
				continue
			}
			if err := p.payOne(p.ctx, d.SandboxID); err != nil {
				p.o.Log.Warn("ask a network plugin again", "error", err)
			} else {
				p.o.Log.Info("a network plugin gave back what it owed", "sandbox", d.SandboxID, "network", d.Network, "tries", d.Tries+1)
			}
			if p.ctx.Err() != nil {
				return
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-p.ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-p.wake:
			t.Stop()
		}
	}
}

// Reconcile detaches sandboxes that are not live, removes names of network namespaces that nobody has, and tells the plugins which attachments there
// are, so that they free all others (GC, CNI 1.1). It says what it found.
func (p *Plugins) Reconcile(ctx context.Context, live func(sandboxID string) bool) (found []endpoint.Difference, err error) {
	var failed []error
	for _, r := range p.gone(live) {
		found = append(found, r.forgotten())
		failed = append(failed, p.Detach(ctx, r.SandboxID))
	}
	names, err := p.strayNames()
	failed = append(failed, err)
	for _, name := range names {
		found = append(found, strayName(name))
		failed = append(failed, p.unbind(strings.TrimPrefix(name, p.mark())))
	}
	failed = append(failed, p.collect(ctx))
	return found, errors.Join(failed...)
}

// Examine tells what Reconcile would mend.
func (p *Plugins) Examine(live func(sandboxID string) bool) (found []endpoint.Difference, err error) {
	for _, r := range p.gone(live) {
		found = append(found, r.forgotten())
	}
	names, err := p.strayNames()
	for _, name := range names {
		found = append(found, strayName(name))
	}
	return found, err
}

func (r *record) forgotten() endpoint.Difference {
	what := fmt.Sprintf("CNI attachment of %s (pod %s/%s, network %s): sandbox is gone", r.SandboxID, r.PodNamespace, r.PodName, r.Network)
	return endpoint.Difference{What: what, Mend: "given back"}
}

func strayName(name string) endpoint.Difference {
	return endpoint.Difference{What: "name " + name + " of a network namespace: belongs to no sandbox", Mend: "removed"}
}

// gone are the records of sandboxes that are not live, debts excepted: those are known.
func (p *Plugins) gone(live func(string) bool) []*record {
	return slices.DeleteFunc(p.all(), func(r *record) bool { return r.Debt != nil || live(r.SandboxID) })
}

// strayNames are names of network namespaces that are ours and nobody's.
func (p *Plugins) strayNames() (stray []string, err error) {
	entries, err := os.ReadDir(p.o.NetNSDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if id, ours := strings.CutPrefix(e.Name(), p.mark()); ours && !p.Has(id) {
			stray = append(stray, e.Name())
		}
	}
	return stray, nil
}

// collect tells the plugins which attachments are valid. Plugins from before CNI 1.1 are not asked, by libcni.
func (p *Plugins) collect(ctx context.Context) error {
	if !p.Installed() || !p.attaching.TryLock() { // with one under way it is left to the next start
		return nil
	}
	defer p.attaching.Unlock()
	list, err := p.network()
	if err != nil {
		return nil //nolint:nilerr // Status tells of it; there is nobody to be told what is valid
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, r := range p.all() {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: r.SandboxID, IfName: endpoint.Interface})
	}
	ctx, cancel := context.WithTimeout(ctx, delLimit)
	defer cancel()
	if err := p.libc.GCNetworkList(ctx, list, args); err != nil {
		return fmt.Errorf("network %s: collect garbage: %w", list.Name, err)
	}
	return nil
}
