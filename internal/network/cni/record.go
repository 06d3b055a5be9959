package cni

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fermata/internal/durable"
	"fermata/internal/network/endpoint"
)

const (
	recordKind = "cni attachment"
	suffix     = ".json"
)

// record is what a plugin was asked for, one file <sandbox>.json, there from before its ADD until after its DEL.
type record struct {
	durable.Newer

	SandboxID string `json:"sandbox"`
	// Network is the name, Config the whole configuration as it was then: the plugin is asked to undo what it was asked to do.
	Network string `json:"network"`
	Config  string `json:"config"`
	// Ports, Annotations and the pod's names were the plugin's arguments.
	Ports        []endpoint.PortMapping `json:"ports,omitempty"`
	Annotations  map[string]string      `json:"annotations,omitempty"`
	PodName      string                 `json:"pod_name,omitempty"`
	PodNamespace string                 `json:"pod_namespace,omitempty"`
	PodUID       string                 `json:"pod_uid,omitempty"`
	Created      time.Time              `json:"created"`
	// Result is the plugin's answer; none yet, or none any more, when the plugin may or may not have done something.
	Result *result `json:"result,omitempty"`
	// Debt is set when the DEL failed.
	Debt *debt `json:"debt,omitempty"`
}

// result is what a record keeps of a plugin's answer.
type result struct {
	IPs      []string `json:"ips"`
	Gateways []string `json:"gateways,omitempty"`
}

type debt struct {
	Since time.Time `json:"since"`
	Next  time.Time `json:"next"`
	Tries int       `json:"tries"`
	Error string    `json:"error"`
}

func (p *Plugins) path(id string) string { return filepath.Join(p.o.Dir, id+suffix) }

// load reads every record; one that cannot be read is set aside and told of.
func (p *Plugins) load() error {
	if err := durable.Sweep(p.o.Dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ours := strings.CutSuffix(e.Name(), suffix)
		if !ours || !durable.IsRecord(e.Name()) {
			continue
		}
		var r record
		if err := durable.Read(filepath.Join(p.o.Dir, e.Name()), recordKind, &r); err != nil {
			p.o.Log.Error("what a network plugin was asked for cannot be read; it may hold an address for ever", "error", err)
			continue
		}
		p.records[id] = &r
	}
	return nil
}

// save writes a record through to the disk: a plugin's leases survive a power cut, and so must this.
func (p *Plugins) save(r *record) error {
	if err := durable.Write(p.path(r.SandboxID), recordKind, r, durable.Options{Sync: true}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records[r.SandboxID] = r
	return nil
}

// drop forgets a record whose plugin has given everything back.
func (p *Plugins) drop(id string) error {
	if err := os.Remove(p.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.records, id)
	return nil
}

// get returns a copy of a record, nil if there is none.
func (p *Plugins) get(id string) *record {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.records[id]; r != nil {
		c := *r
		return &c
	}
	return nil
}

// all returns copies of all records.
func (p *Plugins) all() []*record {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*record
	for _, r := range p.records {
		c := *r
		all = append(all, &c)
	}
	return all
}

func cmpBase(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) }
