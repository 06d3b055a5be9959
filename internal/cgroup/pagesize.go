package cgroup

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// pageSizes lists the machine's huge page sizes as control groups name them ("2MB", "1GB").
var pageSizes = sync.OnceValue(func() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil { // a kernel without huge pages
		return nil
	}
	var sizes []string
	for _, e := range entries {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err == nil {
			sizes = append(sizes, sizeName(kb))
		}
	}
	return sizes
})

// sizeName names a size in KiB as the kernel does (hugetlb_cgroup.c, mem_fmt).
func sizeName(kb uint64) string {
	switch {
	case kb >= 1<<20:
		return strconv.FormatUint(kb>>20, 10) + "GB"
	case kb >= 1<<10:
		return strconv.FormatUint(kb>>10, 10) + "MB"
	}
	return strconv.FormatUint(kb, 10) + "KB"
}

// unsupported reports whether a file is there but does not work on this machine, as PSI's with psi=0.
func unsupported(err error) bool { return errors.Is(err, syscall.EOPNOTSUPP) }
