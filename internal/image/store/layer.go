package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"fermata/internal/linux"
)

// Making is a layer that is being unpacked: its directory is in tmp until [Making.Commit].
type Making struct {
	s   *Store
	dir string
	// Root is the layer's own root, mode 0755, open as a directory. It is closed by Commit and Discard.
	Root *linux.FD
}

// MakeLayer begins a layer.
func (s *Store) MakeLayer() (*Making, error) {
	dir, err := s.TempDir()
	if err != nil {
		return nil, err
	}
	m := &Making{s: s, dir: dir}
	root := filepath.Join(dir, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, errors.Join(err, m.Discard())
	}
	if err := os.Chmod(root, 0o755); err != nil { // whatever the umask
		return nil, errors.Join(err, m.Discard())
	}
	if m.Root, err = linux.Open(root, os.O_RDONLY, 0); err != nil {
		return nil, errors.Join(err, m.Discard())
	}
	return m, nil
}

// Dir is the layer's root as a path, valid until Commit or Discard; Work a directory on the same filesystem that goes with either.
func (m *Making) Dir() string { return filepath.Join(m.dir, "fs") }

// Work makes and returns a directory beside the root, for overlayfs to work in.
func (m *Making) Work() (string, error) {
	w := filepath.Join(m.dir, "work")
	return w, os.Mkdir(w, 0o700)
}

// Commit puts the layer in its place. It is not on the disk for certain until the next [Store.PutRecord] that syncs.
func (m *Making) Commit(key string, l Layer) error {
	if !keyForm.MatchString(key) {
		return fmt.Errorf("layer key %q", key)
	}
	l.Version = Version
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := m.Root.Close(); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(m.dir, "work")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "layer.json"), b, 0o600); err != nil {
		return err
	}
	target := m.s.path("layers", key)
	err = linux.RenameNoReplace(m.dir, target)
	if errors.Is(err, fs.ErrExist) {
		// Left of an image whose record is broken, maybe half written, maybe in use by a container: out of the way.
		if err = os.Rename(target, fmt.Sprintf("%s-%d", m.s.path("broken", key), m.s.temp.Add(1))); err == nil {
			err = linux.RenameNoReplace(m.dir, target)
		}
	}
	return err
}

// Discard removes a layer that did not come to be.
func (m *Making) Discard() error { return errors.Join(m.Root.Close(), m.s.Discard(m.dir)) }

// Discard removes a directory made by TempDir.
func (s *Store) Discard(dir string) error { return os.RemoveAll(dir) }

// LayerDir is the directory that overlayfs stacks.
func (s *Store) LayerDir(key string) string { return s.path("layers", key, "fs") }

// Layer reads a layer's description.
func (s *Store) Layer(key string) (*Layer, error) {
	var l Layer
	if err := readJSON(s.path("layers", key, "layer.json"), &l); err != nil {
		return nil, fmt.Errorf("layer %s: %w", key, err)
	}
	if l.Version != Version {
		return nil, fmt.Errorf("layer %s: version %d, not %d", key, l.Version, Version)
	}
	return &l, nil
}

// Layers lists the keys of all layers.
func (s *Store) Layers() ([]string, error) {
	entries, err := os.ReadDir(s.path("layers"))
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Name())
	}
	return keys, err
}

// TakeLayer makes a layer disappear at once and returns where it lies until it is given to [Store.Discard]. One that is not there gives "".
func (s *Store) TakeLayer(key string) (string, error) {
	away := s.tempName()
	err := os.Rename(s.path("layers", key), away)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return away, err
}

// Leftovers takes everything in tmp, and, when no record is broken, the layers that were in the way of images pulled again; to be given to [Store.Discard].
func (s *Store) Leftovers() ([]string, error) {
	folders := []string{"tmp"}
	if !s.Broken() {
		folders = append(folders, "broken")
	}
	var left []string
	for _, folder := range folders {
		entries, err := os.ReadDir(s.path(folder))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			away := s.path("tmp", fmt.Sprintf("old-%d-%d", time.Now().UnixNano(), s.temp.Add(1)))
			if err := os.Rename(s.path(folder, e.Name()), away); err != nil {
				return nil, err
			}
			left = append(left, away)
		}
	}
	return left, nil
}
