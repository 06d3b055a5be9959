package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// memory is the runtime's, in kB of PSS.
type memory struct {
	pods          int
	without, with int // with no pod and with pods idle pods
}

// perPod is what one idle pod adds, in kB.
func (m memory) perPod() float64 {
	if m.pods == 0 {
		return 0
	}
	return float64(m.with-m.without) / float64(m.pods)
}

// idle runs pods of one sleeping container each and measures before and with them.
func (s *subject) idle(ctx context.Context, pods int) (memory, error) {
	m := memory{pods: pods}
	var err error
	if m.without, err = s.pss(); err != nil {
		return m, err
	}
	for range pods {
		pod := cri.PodConfig("idle", "")
		id, err := s.client.RunPod(ctx, pod)
		if err == nil {
			ctr := cri.ContainerConfig("main", images.Busybox, "sleep", "100000")
			ctr.LogPath = ""
			_, err = s.client.Run(ctx, id, pod, ctr)
		}
		if err != nil {
			return m, fmt.Errorf("idle pod: %w", err)
		}
	}
	time.Sleep(time.Second) // what they do after having answered is done
	if m.with, err = s.pss(); err != nil {
		return m, err
	}
	return m, s.client.RemoveAll(ctx)
}

// pss is the sum over the runtime's processes and all that they started, but not the containers' programs (sleep).
func (s *subject) pss() (int, error) {
	counted := map[int]bool{}
	for _, pid := range s.processes() {
		counted[pid] = true
	}
	parents := parents()
	for pid := range parents {
		for up := pid; up > 1; up = parents[up] {
			if counted[up] {
				counted[pid] = true
				break
			}
		}
	}
	sum := 0
	for pid := range counted {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil || strings.TrimSpace(string(comm)) == "sleep" {
			continue
		}
		kb, err := pssOf(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		sum += kb
	}
	if sum == 0 {
		return 0, fmt.Errorf("no process of the runtime found")
	}
	return sum, nil
}

func pssOf(pid int) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "Pss:" {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, lines.Err()
}

// parents maps every process to its parent.
func parents() map[int]int {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		_, after, _ := strings.Cut(string(stat[strings.LastIndex(string(stat), ")"):]), ") ")
		if fields := strings.Fields(after); len(fields) > 1 {
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	return parents
}
