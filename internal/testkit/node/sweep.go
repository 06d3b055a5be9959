package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Sweep ends and removes what a stopped node left all the same, so that a test that failed leaves nothing to those after it, and tells of each thing.
// Looking for leaks comes before it: afterwards there are none.
func (n *Node) Sweep() (found []string, err error) {
	var failed []error
	for _, cgroup := range n.scope.Cgroups {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroup)
		for _, root := range append(groups, "/sys/fs/cgroup"+cgroup) {
			more, err := sweepCgroup(root)
			found, failed = append(found, more...), append(failed, err)
		}
	}
	links, err := os.ReadDir("/sys/class/net")
	failed = append(failed, err)
	for _, l := range links {
		for _, prefix := range n.scope.Links {
			if strings.HasPrefix(l.Name(), prefix) {
				found = append(found, "link "+l.Name())
				exec.Command("ip", "link", "delete", l.Name()).Run() // gone with its other end, perhaps
				break
			}
		}
	}
	return found, errors.Join(failed...)
}

// sweepCgroup kills what is in a tree of cgroups and removes it, the innermost first.
func sweepCgroup(root string) (found []string, err error) {
	var groups []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			groups = append([]string{path}, groups...)
		}
		return err
	})
	for _, group := range groups {
		procs, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		for _, pid := range strings.Fields(string(procs)) {
			found = append(found, fmt.Sprintf("process %s in %s", pid, group))
			if number, err := strconv.Atoi(pid); err == nil && number > 1 {
				syscall.Kill(number, syscall.SIGKILL)
			}
		}
		for tries := 0; os.Remove(group) != nil && tries < 200; tries++ { // the kernel tells nobody when the killed are gone
			time.Sleep(5 * time.Millisecond)
		}
		found = append(found, "cgroup "+group)
	}
	return found, err
}
