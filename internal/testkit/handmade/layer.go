// Package handmade builds image layers, configs, manifests and indexes in memory, for tests: every kind of tar entry a layer can hold, in each
// compression, in Docker's and OCI's media types. Nothing touches the disk; package testkit/registry serves the result. The images that whole-system
// tests run (busybox, nginx, …) are package testkit/images.
//
//	base := handmade.NewLayer(handmade.Gzip, handmade.Dir("etc"), handmade.File("etc/hostname", "box\n"))
//	img := handmade.New(base, handmade.NewLayer(handmade.Zstd, handmade.Whiteout("etc/hostname")))
package handmade

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Entry is one entry of a layer's tar, as archive/tar has it; its size is that of Data unless Header.Size is set.
type Entry struct {
	tar.Header
	Data []byte
}

// Born is when everything in test layers was last changed.
var Born = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

func entry(kind byte, name string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: Born, Format: tar.FormatPAX}}
}

// File is a regular file of root's, mode 0644.
func File(name, data string) Entry {
	e := entry(tar.TypeReg, name, 0o644)
	e.Data = []byte(data)
	return e
}

// Executable is a regular file of root's, mode 0755.
func Executable(name string, data []byte) Entry {
	e := entry(tar.TypeReg, name, 0o755)
	e.Data = data
	return e
}

// Dir is a directory of root's, mode 0755.
func Dir(name string) Entry { return entry(tar.TypeDir, name+"/", 0o755) }

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	e := entry(tar.TypeSymlink, name, 0o777)
	e.Linkname = target
	return e
}

// Hard is a hard link to another entry's name.
func Hard(name, target string) Entry {
	e := entry(tar.TypeLink, name, 0o644)
	e.Linkname = target
	return e
}

// Device is a device node: kind is tar.TypeChar or tar.TypeBlock.
func Device(kind byte, name string, major, minor int64) Entry {
	e := entry(kind, name, 0o600)
	e.Devmajor, e.Devminor = major, minor
	return e
}

// FIFO is a named pipe.
func FIFO(name string) Entry { return entry(tar.TypeFifo, name, 0o644) }

// Whiteout hides a name of the layers below.
func Whiteout(name string) Entry {
	return File(path.Join(path.Dir(name), ".wh."+path.Base(name)), "")
}

// Opaque hides everything that the layers below have in a directory.
func Opaque(dir string) Entry { return File(path.Join(dir, ".wh..wh..opq"), "") }

// Moded returns the entry with other permission bits (setuid 04000, setgid 02000, sticky 01000 included).
func (e Entry) Moded(mode int64) Entry { e.Mode = mode; return e }

// Owned returns the entry with another owner.
func (e Entry) Owned(uid, gid int) Entry { e.Uid, e.Gid = uid, gid; return e }

// Xattr returns the entry with one more extended attribute.
func (e Entry) Xattr(name, value string) Entry {
	records := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range e.PAXRecords {
		records[k] = v
	}
	e.PAXRecords = records
	return e
}

// Tar writes entries as one archive. It panics on an entry that cannot be written: a test's own mistake.
func Tar(entries ...Entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if h.Size == 0 {
			h.Size = int64(len(e.Data))
		}
		must(w.WriteHeader(&h))
		if len(e.Data) > 0 {
			_, err := w.Write(e.Data)
			must(err)
		}
	}
	must(w.Close())
	return buf.Bytes()
}

// Compression is how a layer travels.
type Compression uint8

// The compressions registries serve.
const (
	Plain Compression = iota
	Gzip
	Zstd
)

// Layer is one layer: what it unpacks to, and what is served.
type Layer struct {
	Tar, Blob      []byte
	DiffID, Digest v1.Hash
	Compression    Compression
}

// NewLayer makes a layer of entries.
func NewLayer(c Compression, entries ...Entry) Layer { return LayerOf(c, Tar(entries...)) }

// LayerOf makes a layer of a tar archive, which need not be a valid one.
func LayerOf(c Compression, archive []byte) Layer {
	blob := Compress(c, archive)
	return Layer{Tar: archive, Blob: blob, DiffID: Digest(archive), Digest: Digest(blob), Compression: c}
}

// Compress compresses bytes.
func Compress(c Compression, data []byte) []byte {
	var buf bytes.Buffer
	switch c {
	case Plain:
		return data
	case Gzip:
		w, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		must(err)
		_, err = w.Write(data)
		must(err)
		must(w.Close())
	case Zstd:
		w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
		must(err)
		_, err = w.Write(data)
		must(err)
		must(w.Close())
	}
	return buf.Bytes()
}

// Digest is the sha256 of bytes as images name things by it.
func Digest(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

func (l Layer) mediaType(docker bool) types.MediaType {
	switch {
	case docker && l.Compression == Plain:
		return types.DockerUncompressedLayer
	case docker:
		return types.DockerLayer
	case l.Compression == Plain:
		return types.OCIUncompressedLayer
	case l.Compression == Zstd:
		return types.OCILayerZStd
	}
	return types.OCILayer
}

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("testkit/handmade: %v", err))
	}
}
