package images

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/testkit/tools"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n" +
		"nobody:x:65534:65534:nobody:/home:/bin/false\n"
	group = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"
)

// busybox is a small system around Debian's (dynamic) busybox.
//
// Its applets are hard links: critest masks /bin/ls and expects the others to work. Debian's busybox-static would not do: its shell
// runs applets by itself and so never meets the mask. pgrep and ipcs, which Debian leaves out, are ours.
func busybox(ctx context.Context) (v1.Layer, error) {
	dir, _, err := tools.Unpack(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	libc, _, err := tools.Unpack(ctx, "libc6")
	if err != nil {
		return nil, err
	}
	files := []file{
		{name: "tmp/", mode: 0o1777}, {name: "root/", mode: 0o700}, {name: "proc/", mode: 0o555}, {name: "sys/", mode: 0o555},
		{name: "dev/", mode: 0o755}, {name: "home/", mode: 0o755}, {name: "var/run/", mode: 0o755}, {name: "mnt/", mode: 0o755},
		{name: "usr/bin/", mode: 0o755}, {name: "var/www/", mode: 0o755},
		{name: "etc/passwd", mode: 0o644, data: []byte(passwd)}, {name: "etc/group", mode: 0o644, data: []byte(group)},
	}
	program, err := os.ReadFile(filepath.Join(dir, "bin/busybox"))
	if err != nil {
		return nil, err
	}
	files = append(files, file{name: "bin/busybox", mode: 0o755, data: program})
	list, err := exec.CommandContext(ctx, filepath.Join(dir, "bin/busybox"), "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	for _, name := range strings.Fields(string(list)) {
		if name != "httpd" { // critest's httpd is another
			files = append(files, file{name: "bin/" + name, link: "bin/busybox", mode: 0o755})
		}
	}
	libraries, err := libraries(filepath.Join(dir, "bin/busybox"), libc)
	if err != nil {
		return nil, err
	}
	ours, err := applets(ctx)
	if err != nil {
		return nil, err
	}
	files = append(append(files, libraries...),
		file{name: "bin/pgrep", mode: 0o755, data: ours}, file{name: "bin/ipcs", mode: 0o755, link: "bin/pgrep"})
	return layer(files...)
}

// libraries are the program's interpreter and the libraries it names, from the libc6 package, where the program looks for them.
func libraries(program, libc string) ([]file, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	needed, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	interp := f.Section(".interp")
	if interp == nil {
		return nil, fmt.Errorf("%s: no interpreter: a static busybox will not do", program)
	}
	path, err := interp.Data()
	if err != nil {
		return nil, err
	}
	var files []file
	interpreter := strings.Trim(string(path), "\x00/")
	for _, name := range append(needed, filepath.Base(interpreter)) {
		found, _ := filepath.Glob(filepath.Join(libc, "lib/*", name))
		if len(found) == 0 {
			return nil, fmt.Errorf("library %s of %s: not in package libc6", name, program)
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			return nil, err
		}
		to := "lib/" + name
		if name == filepath.Base(interpreter) {
			to = interpreter
		}
		files = append(files, file{name: to, mode: 0o755, data: data})
	}
	return files, nil
}
