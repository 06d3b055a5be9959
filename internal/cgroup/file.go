package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// maxFile bounds what is read of one file. cgroup.procs of a group with a million processes is the longest.
const maxFile = 16 << 20

// open opens a file of a group. rel is the group's path below the hierarchy's root, "" for the root itself.
func (h *hierarchy) open(rel, file string, flags int) (*linux.FD, error) {
	f, err := h.root.OpenSameMount(path.Join(".", rel, file), flags)
	return f, gone(err)
}

// read returns a file's contents without the last newline.
func (h *hierarchy) read(rel, file string) (string, error) {
	f, err := h.open(rel, file, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := f.ReadAll(maxFile)
	if err != nil {
		return "", gone(err)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// write writes a value to a file in one call.
func (h *hierarchy) write(rel, file, value string) error {
	f, err := h.open(rel, file, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return gone(f.WriteOnce([]byte(value)))
}

// gone gives the errors of a group or file that is not there the kind NotFound: ENOENT, and ENODEV of one removed after it was opened.
func gone(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODEV) {
		return errs.As(errs.NotFound, err)
	}
	return err
}

// unlimited is what the files say that hold no limit: "max" (v2), -1, and on v1 the largest multiple of a page.
const unlimited = math.MaxUint64

// number reads one figure; "max", negative ones and v1's huge ones are unlimited.
func number(s string) (uint64, error) {
	if s == "max" || strings.HasPrefix(s, "-") {
		return unlimited, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read figure %q: %w", s, errors.Unwrap(err))
	}
	if n >= math.MaxInt64&^0xffff { // PAGE_COUNTER_MAX, for pages up to 64 KiB
		return unlimited, nil
	}
	return n, nil
}

// flat reads a "key value" file.
func flat(text string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if n, err := number(value); err == nil {
				m[key] = n
			}
		}
	}
	return m
}
