package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cli/manifest"
	"fermata/internal/errs"
)

// prepare puts on the disk what the plan's mounts need, as the kubelet does before it calls CRI. What it made is removed again when
// it does not succeed, except directories of the host that the manifest asked for.
func prepare(data string, plan *manifest.Plan) error {
	if err := os.MkdirAll(filepath.Dir(data), 0o711); err != nil {
		return fmt.Errorf("make the pod's directory: %w", err)
	}
	if err := os.Mkdir(data, 0o711); err != nil {
		return fmt.Errorf("make the pod's directory: %w", err)
	}
	err := os.WriteFile(filepath.Join(data, marker), []byte(filepath.Base(data)), 0o600)
	for _, source := range plan.Volumes {
		if err != nil {
			break
		}
		if err = prepareVolume(source); err != nil {
			err = fmt.Errorf("volume %s: %w", source.Volume, err)
		}
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(data))
	}
	return nil
}

func prepareVolume(source manifest.Source) error {
	var err error
	if source.EmptyDir {
		err = makeEmptyDir(source)
	} else {
		err = checkHostPath(source)
	}
	if err != nil || len(source.SubPaths) == 0 {
		return err
	}
	// A Root follows no link out of the volume: a subPath must not reach what the volume does not hold (CVE-2017-1002101). The
	// manifest's author can still change the volume later; what is mounted then is the daemon's to resolve.
	root, err := os.OpenRoot(source.Path)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, sub := range source.SubPaths {
		sub = filepath.Clean(sub)
		if _, err := root.Stat(sub); err == nil {
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("subPath %s: %w", sub, err)
		}
		if err := root.MkdirAll(sub, 0o755); err != nil {
			return fmt.Errorf("subPath %s: %w", sub, err)
		}
	}
	return nil
}

// makeEmptyDir gives every user of the pod the right to write, as the kubelet does; with fsGroup, new files belong to the group.
func makeEmptyDir(source manifest.Source) error {
	if err := os.MkdirAll(source.Path, 0o777); err != nil {
		return err
	}
	mode := os.FileMode(0o777)
	if source.Group != nil {
		if err := os.Chown(source.Path, -1, int(*source.Group)); err != nil {
			return err
		}
		mode |= os.ModeSetgid
	}
	return os.Chmod(source.Path, mode) // past the umask
}

func checkHostPath(source manifest.Source) error {
	st, err := os.Stat(source.Path)
	if errors.Is(err, os.ErrNotExist) {
		switch source.Type {
		case "", "DirectoryOrCreate": // an untyped one is made by the runtime as a directory, so it may as well be here
			return os.MkdirAll(source.Path, 0o755)
		case "FileOrCreate":
			return os.WriteFile(source.Path, nil, 0o644)
		}
	}
	if err != nil {
		return err
	}
	is := map[string]bool{
		"": true, "Directory": st.IsDir(), "DirectoryOrCreate": st.IsDir(),
		"File": st.Mode().IsRegular(), "FileOrCreate": st.Mode().IsRegular(),
		"Socket":      st.Mode()&os.ModeSocket != 0,
		"CharDevice":  st.Mode()&os.ModeCharDevice != 0,
		"BlockDevice": st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0,
	}
	if !is[source.Type] {
		return errs.New(errs.FailedPrecondition, "%s: is not a %s", source.Path, source.Type)
	}
	return nil
}

// machineMemory is MemTotal in bytes, 0 if it cannot be read.
func machineMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return kb * 1024
			}
		}
	}
	return 0
}

// hostDNS is the host's resolv.conf(5), nil if there is none.
func hostDNS() *runtimeapi.DNSConfig {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	dns := &runtimeapi.DNSConfig{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			dns.Servers = append(dns.Servers, words[1])
		case "search", "domain":
			dns.Searches = words[1:] // the last one counts
		case "options":
			dns.Options = append(dns.Options, words[1:]...)
		}
	}
	return dns
}
