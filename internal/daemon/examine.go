package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"

	"fermata/internal/doctor"
	"fermata/internal/linux"
)

// reconcileEvery is how often the daemon looks by itself for what is not as recorded. Events tell of most things sooner.
const reconcileEvery = time.Minute

// checks are all there is to look at, each by its owner.
func (p *parts) checks() []doctor.Check {
	return []doctor.Check{
		{Area: "pods", Look: p.examinePods},
		{Area: "network", Look: p.examineNetwork},
		{Area: "images", Look: p.examineImages},
		{Area: "files", Look: p.examineFiles},
		{Area: "mounts", Look: p.examineMounts},
	}
}

func (p *parts) examinePods(ctx context.Context) ([]doctor.Finding, error) {
	differences, err := p.pods.Examine(ctx)
	var found []doctor.Finding
	for _, d := range differences {
		found = append(found, doctor.Finding{Object: d.Object, Problem: d.What, Remedy: d.Remedy, Repair: d.Mend, Asked: d.Asked})
	}
	return found, err
}

// examineNetwork has one repair for all it finds, looking again and mending, and one for all debts, which are paid in their own time unless a person asks.
func (p *parts) examineNetwork(ctx context.Context) ([]doctor.Finding, error) {
	differences, err := p.network.Examine(ctx, p.pods.HoldsNetwork)
	var found []doctor.Finding
	mend := once(func(ctx context.Context) error {
		_, err := p.network.Reconcile(ctx, p.pods.HoldsNetwork)
		return err
	})
	pay := once(p.network.PayDebts)
	for _, d := range differences {
		object, problem, _ := strings.Cut(d.What, ": ")
		found = append(found, doctor.Finding{Object: object, Problem: problem, Remedy: "it is " + d.Mend, Repair: mend})
	}
	for _, d := range p.network.Debts() {
		found = append(found, doctor.Finding{
			Object:  fmt.Sprintf("network %s of pod %s/%s", d.Network, d.PodNamespace, d.PodName),
			Problem: "was not given back by its plugin: " + d.Error, Remedy: "the plugin is asked again until it does (fermata debts)", Repair: pay, Asked: true,
		})
	}
	return found, err
}

// once is a repair that several findings have.
func once(repair func(context.Context) error) func(context.Context) error {
	var did sync.Once
	var err error
	return func(ctx context.Context) error {
		did.Do(func() { err = repair(ctx) })
		return err
	}
}

func (p *parts) examineImages(context.Context) ([]doctor.Finding, error) {
	differences, err := p.images.Examine()
	var found []doctor.Finding
	for _, d := range differences {
		found = append(found, doctor.Finding{Object: d.Object, Problem: d.What, Remedy: d.Remedy, Repair: d.Mend})
	}
	return found, err
}

// examineFiles looks for FIFOs of processes that the keeper does not hold and of nobody's that may be launched. Their names begin with the container's or sandbox's ID.
func (p *parts) examineFiles(ctx context.Context) ([]doctor.Finding, error) {
	dir := filepath.Join(p.cfg.State, "fifo")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	held, err := p.keeper.Processes(ctx)
	if err != nil {
		return nil, err
	}
	owners := map[string]bool{}
	for _, h := range held {
		id, _, _ := strings.Cut(h.ID, "/")
		owners[id] = true
	}
	var found []doctor.Finding
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if len(e.Name()) < 64 || owners[e.Name()[:64]] || p.pods.Knows(e.Name()[:64]) { // the keeper does not list a launch that hangs
			continue
		}
		found = append(found, doctor.Finding{
			Object: path, Problem: "is the FIFO of no process", Remedy: "it is removed", Repair: func(context.Context) error { return os.Remove(path) },
		})
	}
	return found, nil
}

// examineMounts looks for mounts of the host below our directories: a native pod adds none.
func (p *parts) examineMounts(context.Context) ([]doctor.Finding, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !p.ownsMount(m.Mountpoint), false })
	var found []doctor.Finding
	for _, m := range mounts {
		found = append(found, doctor.Finding{
			Object: m.Mountpoint, Problem: fmt.Sprintf("is a mount (%s) that no pod needs", m.FSType), Remedy: "it is unmounted",
			Repair: func(context.Context) error { return linux.Unmount(m.Mountpoint) },
		})
	}
	return found, err
}

// ownsMount says whether a mount lies where pods have their things. The directories themselves may be mounts of the administrator's.
func (p *parts) ownsMount(path string) bool {
	for _, dir := range []string{filepath.Join(p.cfg.Root, "pods"), filepath.Join(p.cfg.Root, "images"), filepath.Join(p.cfg.State, "pods")} {
		if strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// notes say what the machine has and lacks.
func (p *parts) notes() []string {
	notes := []string{fmt.Sprintf("cgroups: %v", p.cgroups.Mode())}
	for _, name := range p.cgroups.Missing() {
		notes = append(notes, fmt.Sprintf("cgroups: no controller %s: its limits cannot be set", name))
	}
	return notes
}

// reconcile looks and mends for as long as the daemon runs.
func (p *parts) reconcile(ctx context.Context) {
	t := time.NewTicker(reconcileEvery)
	defer t.Stop()
	told := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		report := doctor.Examine(ctx, p.checks())
		failed := report.Repair(ctx, false)
		for _, err := range report.Failed {
			p.log.Error("look for what is not as recorded", "error", err)
		}
		still := map[string]bool{}
		for i, f := range report.Findings {
			story := f.String()
			if still[story] = true; f.Repair != nil && !f.Asked || !told[story] { // what is left to a person is told once
				p.log.Warn("something is not as recorded", "what", story, "error", failed[i])
			}
		}
		told = still
	}
}
