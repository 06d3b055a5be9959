package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/durable"
	"fermata/internal/pod"
)

// records keeps pods below one directory: <id>/pod.json and <id>/containers/<id>/{container,spec}.json.
type records struct{ root string }

var _ pod.Records = (*records)(nil)

const (
	podKind       = "pod"
	containerKind = "container"
)

func (r *records) pod(id string) string { return filepath.Join(r.root, id) }
func (r *records) container(pod, id string) string {
	return filepath.Join(r.root, pod, "containers", id)
}

// WritePod writes a pod's record. Nothing is synced: after a power cut no pod lives.
func (r *records) WritePod(p *pod.PodRecord) error {
	dir := r.pod(p.ID)
	return within(dir, func() error {
		return durable.Write(filepath.Join(dir, "pod.json"), podKind, p, durable.Options{})
	})
}

// WriteContainer writes a container's record, and before it its spec if there is one to write.
func (r *records) WriteContainer(c *pod.ContainerRecord, s *specs.Spec) error {
	dir := r.container(c.PodID, c.ID)
	return within(dir, func() error {
		if s != nil {
			b, err := json.Marshal(s)
			if err != nil {
				return fmt.Errorf("encode spec of container %s: %w", c.ID, err)
			}
			if err := replaceFile(filepath.Join(dir, "spec.json"), b); err != nil {
				return err
			}
		}
		return durable.Write(filepath.Join(dir, "container.json"), containerKind, c, durable.Options{})
	})
}

// within writes into a directory, making it when it turns out to be missing: only a first record finds none.
func within(dir string, write func() error) error {
	err := write()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.MakeDir(dir); err != nil {
		return err
	}
	return write()
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		os.Remove(tmp) // a full disk wants its bytes back
		return err
	}
	return os.Rename(tmp, path)
}

// ReadSpec reads a container's OCI spec.
func (r *records) ReadSpec(podID, containerID string) (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(r.container(podID, containerID), "spec.json"))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read spec of container %s: %w", containerID, err)
	}
	return &s, nil
}

// Load reads every pod and container. What cannot be read was set aside by durable and is named in broken.
func (r *records) Load() (pods []pod.StoredPod, broken []error, err error) {
	entries, err := os.ReadDir(r.root)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if !e.IsDir() || !durable.IsRecord(e.Name()) {
			continue
		}
		stored, bad := r.loadPod(e.Name())
		broken = append(broken, bad...)
		if stored != nil {
			pods = append(pods, *stored)
		}
	}
	return pods, broken, nil
}

// sweep removes a directory without a record: its owner was killed while making or removing it. One whose record was set aside by an earlier start
// is kept, with all that is in it, and named.
func sweep(dir string) []error {
	if aside, _ := filepath.Glob(filepath.Join(dir, "*.json.broken-*")); len(aside) > 0 {
		return []error{fmt.Errorf("%s: its record was set aside as %s", dir, aside[0])}
	}
	if err := os.RemoveAll(dir); err != nil {
		return []error{err}
	}
	return nil
}

func (r *records) loadPod(id string) (stored *pod.StoredPod, broken []error) {
	var p pod.PodRecord
	err := durable.Read(filepath.Join(r.pod(id), "pod.json"), podKind, &p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sweep(r.pod(id))
	}
	if err != nil {
		return nil, []error{err}
	}
	stored = &pod.StoredPod{Pod: &p}
	entries, err := os.ReadDir(filepath.Join(r.pod(id), "containers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return stored, []error{err}
	}
	for _, e := range entries {
		var c pod.ContainerRecord
		err := durable.Read(filepath.Join(r.container(id, e.Name()), "container.json"), containerKind, &c)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			broken = append(broken, sweep(r.container(id, e.Name()))...)
		case err != nil:
			broken = append(broken, err)
		default:
			stored.Containers = append(stored.Containers, &c)
		}
	}
	return stored, broken
}
