// Command pack makes an OCI image archive of one static binary: enough to show that an image needs no registry and no builder.
//
//	pack -name REFERENCE -binary FILE [-user UID] OUTPUT.tar
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	name := flag.String("name", "", "reference of the image")
	binary := flag.String("binary", "", "static binary, the image's entry point")
	user := flag.String("user", "", "user it runs as")
	flag.Parse()
	if *name == "" || *binary == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := pack(*name, *binary, *user, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(name, binary, user, output string) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	base := filepath.Base(binary)
	if err := writeTar(&layer, []file{
		{"etc/", nil, 0o755},
		{"etc/passwd", []byte("root:x:0:0:root:/:/sbin/nologin\ndemo:x:1000:1000:demo:/:/sbin/nologin\n"), 0o644},
		{"etc/group", []byte("root:x:0:\ndemo:x:1000:\n"), 0o644},
		{"tmp/", nil, 0o1777},
		{base, program, 0o755},
	}); err != nil {
		return err
	}
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   v1.ImageConfig{Entrypoint: []string{"/" + base}, User: user, Env: []string{"PATH=/"}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: descriptor(v1.MediaTypeImageConfig, config),
		Layers: []v1.Descriptor{descriptor(v1.MediaTypeImageLayer, layer.Bytes())},
	})
	if err != nil {
		return err
	}
	entry := descriptor(v1.MediaTypeImageManifest, manifest)
	entry.Annotations = map[string]string{v1.AnnotationRefName: name, "io.containerd.image.name": name}
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{entry},
	})
	if err != nil {
		return err
	}
	return writeArchive(output, index, config, manifest, layer.Bytes())
}

func writeArchive(output string, index []byte, blobs ...[]byte) error {
	out, err := os.Create(output)
	if err != nil {
		return err
	}
	files := []file{
		{v1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
		{v1.ImageIndexFile, index, 0o644},
		{"blobs/", nil, 0o755}, {"blobs/sha256/", nil, 0o755},
	}
	for _, b := range blobs {
		sum := sha256.Sum256(b)
		files = append(files, file{"blobs/sha256/" + hex.EncodeToString(sum[:]), b, 0o644})
	}
	return errors.Join(writeTar(out, files), out.Close())
}

func descriptor(mediaType string, content []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// file is an entry of an archive; a name that ends in a slash is a directory.
type file struct {
	name    string
	content []byte
	mode    int64
}

// writeTar writes no times and no owners, so that the same input is the same image.
func writeTar(to io.Writer, files []file) error {
	w := tar.NewWriter(to)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if f.name[len(f.name)-1] == '/' {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(f.content); err != nil {
			return err
		}
	}
	return w.Close()
}
