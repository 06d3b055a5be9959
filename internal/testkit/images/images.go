// Package images makes the container images that tests run, from Debian's busybox and small programs of ours, and serves them under
// their public names on a loopback registry. No public registry is needed or asked.
//
// The same packages and sources give the same digests. What critest asserts about each image is written where it is made. What
// belongs elsewhere: fetching packages and building programs (package tools).
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"fermata/internal/testkit/tools"
)

// The names tests use most; all of Debian's busybox applets, a shell and a few accounts.
const (
	Busybox = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
	Pause   = "registry.k8s.io/pause:3.10"
	Nginx   = "registry.k8s.io/e2e-test-images/nginx:1.14-2"
)

// Volumes is busybox with volumes of its own: /data, with contents, /covered and /empty.
const Volumes = "registry.k8s.io/fermata-test/volumes:1"

// DigestImage is the repository of the image that critest pulls by digest.
const DigestImage = "gcr.io/k8s-staging-cri-tools/test-image-digest"

// file is one entry of a layer; a directory when its name ends in "/".
type file struct {
	name string
	mode int64
	data []byte
	link string // hard link to this earlier entry
	soft string // symbolic link
}

// All builds every image, by full reference. [DigestImage] carries the tag "latest".
func All(ctx context.Context) (map[string]v1.Image, error) {
	base, err := busybox(ctx)
	if err != nil {
		return nil, err
	}
	web, err := applets(ctx)
	if err != nil {
		return nil, err
	}
	b := builder{images: map[string]v1.Image{}}
	b.busyboxes(base)
	b.users(base)
	b.volumes(base)
	b.servers(base, web)
	b.small()
	return b.images, b.err
}

// builder collects images; the first failure is kept.
type builder struct {
	images map[string]v1.Image
	err    error
}

func (b *builder) add(name string, cfg v1.Config, layers ...v1.Layer) {
	if b.err != nil {
		return
	}
	img, err := image(cfg, layers...)
	if err != nil {
		b.err = fmt.Errorf("image %s: %w", name, err)
		return
	}
	b.images[name] = img
}

func (b *builder) layer(files ...file) v1.Layer {
	l, err := layer(files...)
	if err != nil && b.err == nil {
		b.err = err
	}
	return l
}

const critestRegistry = "gcr.io/k8s-staging-cri-tools/"

// busyboxes are the images that differ in their name and a file only.
func (b *builder) busyboxes(base v1.Layer) {
	shell := v1.Config{Cmd: []string{"sh"}}
	b.add(Busybox, shell, base)
	for _, name := range []string{
		"test-image-latest:latest", "test-image-tag:test", "test-image-tag:all",
		"test-image-1:latest", "test-image-2:latest", "test-image-3:latest", "test-image-tags:1",
	} {
		b.add(critestRegistry+name, shell, base, b.layer(file{name: strings.ReplaceAll(name, ":", "-"), mode: 0o644}))
	}
	// critest wants one image under three tags.
	for _, tag := range []string{"2", "3"} {
		b.images[critestRegistry+"test-image-tags:"+tag] = b.images[critestRegistry+"test-image-tags:1"]
	}
}

// users are the images that name one.
func (b *builder) users(base v1.Layer) {
	for name, user := range map[string]string{
		"test-image-user-uid":            "1002",
		"test-image-user-username":       "www-data",
		"test-image-user-uid-group":      "1003:1003",
		"test-image-user-username-group": "www-data:100",
	} {
		b.add(critestRegistry+name+":latest", v1.Config{Cmd: []string{"sh"}, User: user}, base)
	}
	// default-user (1000) is in a group (50000) by the image's own /etc/group only.
	b.add(critestRegistry+"test-image-predefined-group:latest", v1.Config{Cmd: []string{"sh"}, User: "1000"}, base, b.layer(
		file{name: "etc/passwd", mode: 0o644, data: []byte(passwd + "default-user:x:1000:1000::/home/default-user:/bin/sh\n")},
		file{name: "etc/group", mode: 0o644, data: []byte(group + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")},
	))
}

// volumes is the image with volumes of its own.
func (b *builder) volumes(base v1.Layer) {
	b.add(Volumes, v1.Config{Cmd: []string{"sh"}, Volumes: map[string]struct{}{"/data": {}, "/covered": {}, "/empty": {}}}, base, b.layer(
		file{name: "data/file", mode: 0o644, data: []byte("of the image\n")}, file{name: "data/secret", mode: 0o600},
		file{name: "data/link", soft: "/etc/passwd"}, file{name: "covered/file", mode: 0o644},
	))
}

// servers are the images with one of our applets as their program.
func (b *builder) servers(base v1.Layer, applets []byte) {
	const e2e = "registry.k8s.io/e2e-test-images/"
	program := func(path string, mode int64) v1.Layer { return b.layer(file{name: path, mode: mode, data: applets}) }
	nginx := v1.Config{Entrypoint: []string{"/usr/sbin/nginx"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT"}
	b.add(Nginx, nginx, base, program("usr/sbin/nginx", 0o755))
	nginx.Env = []string{"NGINX_PORT=12003"} // critest's webServerHostNetContainerPort
	b.add(critestRegistry+"hostnet-nginx-amd64:latest", nginx, base, program("usr/sbin/nginx", 0o755))
	b.add(critestRegistry+"hostnet-nginx-arm64:latest", nginx, base, program("usr/sbin/nginx", 0o755))
	b.add(e2e+"httpd:2.4.39-4", v1.Config{Cmd: []string{"/usr/sbin/httpd"}}, base, program("usr/sbin/httpd", 0o755))
	b.add(e2e+"nonewprivs:1.3", v1.Config{Cmd: []string{"/nonewprivs"}}, base, program("nonewprivs", 0o4755))
}

// small are the images without busybox: the peers' pause, and the one pulled by digest, which holds nothing that changes with a
// package's version, because critest has the digest compiled in.
func (b *builder) small() {
	pause := b.layer(file{name: "pause", mode: 0o755, data: pauseELF()})
	for _, name := range []string{"pause:3.9", "pause:3.10"} { // must differ; pause:3.9 is one image under two registries' names
		b.add("registry.k8s.io/"+name, v1.Config{Entrypoint: []string{"/pause"}, Labels: map[string]string{"version": name}}, pause)
	}
	b.images["k8s.gcr.io/pause:3.9"] = b.images["registry.k8s.io/pause:3.9"]
	b.add(DigestImage+":latest", v1.Config{Cmd: []string{"/test"}}, uncompressed(b.layer(file{name: "test", mode: 0o644, data: []byte("by digest\n")})))
}

// image is layers and a configuration, with no time in it.
func image(cfg v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux", Config: cfg, Created: v1.Time{Time: time.Unix(0, 0).UTC()}, RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	if cfg.Env == nil {
		cfg.Env = []string{}
	}
	cfg.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, cfg.Env...)
	if img, err = mutate.Config(img, cfg); err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layers...)
}

// layer is one gzipped tar with the files in the order given, their parents before them, root's and without times.
func layer(files ...file) (v1.Layer, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{".": true, "/": true}
	for _, f := range files {
		if err := writeParents(w, made, f.name); err != nil {
			return nil, err
		}
		if made[strings.TrimSuffix(f.name, "/")] {
			continue
		}
		made[strings.TrimSuffix(f.name, "/")] = true
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeLink, f.link
		case f.soft != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.soft
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil })
}

func writeParents(w *tar.Writer, made map[string]bool, name string) error {
	dir := filepath.Dir(strings.TrimSuffix(name, "/"))
	if made[dir] {
		return nil
	}
	if err := writeParents(w, made, dir); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Name: dir + "/", Mode: 0o755, Typeflag: tar.TypeDir, ModTime: time.Unix(0, 0)})
}

// uncompressed is the layer as plain tar: its digest does not depend on a compressor.
func uncompressed(l v1.Layer) v1.Layer {
	r, err := l.Uncompressed()
	if err != nil {
		return l
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return l
	}
	return static.NewLayer(data, types.DockerUncompressedLayer)
}

// applets builds the program for images' servers.
func applets(ctx context.Context) ([]byte, error) {
	path, err := tools.Own(ctx, "internal/testkit/images/applets")
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// Names returns the references in order.
func Names(images map[string]v1.Image) []string {
	names := make([]string, 0, len(images))
	for name := range images {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
