package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/tools"
)

// modules is what fermata, the tests and the disk need of Debian's kernels; what a kernel has built in is not missed.
var modules = []string{
	"overlay", "veth", "bridge", "br_netfilter", "nf_tables", "nft_nat", "nft_masq", "nft_chain_nat", "nft_ct", "nft_redir", "nft_fib_inet",
	"nft_reject_inet", "nf_conntrack", "nf_nat", "ipv6", "virtio_pci", "virtio_blk", "virtio_console", "ext4", "unix", "af_packet",
}

// buildPayload puts what the tests need into a directory: our program, the tests, crictl, images.
func buildPayload(ctx context.Context, dir string) (string, error) {
	root, err := tools.Root()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir+"/images", 0o755); err != nil {
		return "", err
	}
	compile := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", dir+"/e2e.test", "./test/e2e")
	compile.Dir, compile.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the tests: %w\n%s", err, out)
	}
	crictl, err := tools.Crictl(ctx)
	if err != nil {
		return "", err
	}
	all, err := images.All(ctx)
	if err != nil {
		return "", err
	}
	critest, err := images.Critest(ctx, all)
	if err != nil {
		return "", err
	}
	for ref := range all {
		if ref != images.Busybox && ref != images.Nginx && ref != images.Volumes {
			delete(all, ref)
		}
	}
	return dir, errors.Join(images.Save(dir+"/images", all), copyFile(dir+"/crictl", crictl), copyFile(dir+"/critest", critest), copyFile(dir+"/fermata", root+"/bin/fermata"))
}

// writeInitramfs makes the archive that the kernel unpacks: the guest program, busybox, modules, and the payload if it is to run there.
func (m *machine) writeInitramfs(ctx context.Context, path string, k *kernel, payload string) error {
	tree := path + ".tree"
	defer os.RemoveAll(tree)
	if err := writeBusybox(ctx, tree); err != nil {
		return err
	}
	guest, err := tools.Own(ctx, "test/kernels/guest")
	if err != nil {
		return err
	}
	if err := errors.Join(copyFile(tree+"/init", guest), copyModules(tree+"/modules", k)); err != nil {
		return err
	}
	for _, write := range m.extras {
		if err := write(ctx, tree); err != nil {
			return err
		}
	}
	if payload != "" {
		if err := copyTree(tree+"/test", payload); err != nil {
			return err
		}
	}
	return writeCpio(path, tree)
}

// writeBusybox makes a small system of Debian's static busybox, and nft's place empty: nothing else is installed there.
func writeBusybox(ctx context.Context, tree string) error {
	dir, _, err := tools.Unpack(ctx, "busybox-static")
	if err != nil {
		return err
	}
	if err := copyFile(tree+"/bin/busybox", dir+"/bin/busybox"); err != nil {
		return err
	}
	list, err := exec.CommandContext(ctx, tree+"/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			if err := os.Symlink("busybox", tree+"/bin/"+name); err != nil {
				return err
			}
		}
	}
	etc := map[string]string{"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "hosts": "127.0.0.1 localhost\n", "resolv.conf": ""}
	for name, text := range etc {
		if err := os.MkdirAll(tree+"/etc", 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(tree+"/etc/"+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyModules copies the modules wanted and those they need, and writes the list in the order of loading.
func copyModules(to string, k *kernel) error {
	files := map[string]string{}
	err := filepath.WalkDir(k.modules, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	var list strings.Builder
	copied := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path, ok := files[name]
		if !ok || copied[name] {
			return nil // built in, or done
		}
		copied[name] = true
		needs, err := needs(path)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return err
			}
		}
		fmt.Fprintln(&list, filepath.Base(path))
		return copyFile(filepath.Join(to, filepath.Base(path)), path)
	}
	for _, name := range modules {
		if err := add(name); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "list"), []byte(list.String()), 0o644)
}

// needs reads which other modules a module says it depends on.
func needs(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s: no .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Split(string(info), "\x00") {
		if names, ok := strings.CutPrefix(field, "depends="); ok && names != "" {
			return strings.Split(strings.ReplaceAll(names, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// writeCpio writes a tree in the form the kernel reads ("newc").
func writeCpio(path, tree string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	inode := 0
	entry := func(name string, mode uint32, data []byte) error {
		inode++
		var b bytes.Buffer
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -len(data)&3))
		_, err := out.Write(b.Bytes())
		return err
	}
	var names []string
	err = filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, name := range names[1:] {
		info, err := os.Lstat(name)
		if err != nil {
			return err
		}
		mode, data := uint32(info.Mode().Perm()), []byte(nil)
		switch {
		case info.IsDir():
			mode |= 0o040000
		case info.Mode()&fs.ModeSymlink != 0:
			mode |= 0o120000
			to, _ := os.Readlink(name)
			data = []byte(to)
		default:
			mode |= 0o100000
			if data, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		if err := entry(strings.TrimPrefix(name, tree+"/"), mode, data); err != nil {
			return err
		}
	}
	return entry("TRAILER!!!", 0, nil)
}

func copyFile(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func copyTree(to, from string) error { return os.CopyFS(to, os.DirFS(from)) }
