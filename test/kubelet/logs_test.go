package kubelet

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fermata/internal/logs"
)

// The kubelet renames a log that has grown too large, has it opened anew, and compresses what it renamed, while the container writes on.
func TestNoLineIsLostOrTornWhenLogsRotate(t *testing.T) {
	w := start(t, map[string]any{"containerLogMaxSize": "256Ki", "containerLogMaxFiles": 1000, "containerLogMonitorInterval": "3s"})
	// Numbered lines as fast as seq prints, with short pauses, and lines longer than a log's pieces (16 KiB) among them.
	w.pod(t, "writer", `
restartPolicy: Never
containers:
- name: main
  image: <busybox>
  command:
  - sh
  - -c
  - |
    long=$(head -c 40000 /dev/zero | tr '\0' x)
    end=$(($(date +%s) + 16)); i=0
    while [ $(date +%s) -lt $end ]; do
      seq $((i + 1)) $((i + 20000)); i=$((i + 20000)); echo "$long"; sleep 0.05
    done
    echo "last $i"
`)
	p := w.ended(t, "writer", "Succeeded")
	dir := filepath.Join(w.kubelet.PodLogs, "test_writer-"+w.kubelet.Name+"_"+p.Metadata.UID, "main")
	files := logFiles(t, dir)
	zipped := slices.IndexFunc(files, func(f string) bool { return filepath.Ext(f) == ".gz" })
	if len(files) < 4 || zipped < 0 {
		t.Fatalf("not rotated, or nothing compressed: %v", files)
	}
	lines := checkNumbers(t, files)
	t.Logf("%d lines in %d files", lines, len(files))
	if tail := w.log(t, "writer", "main", "tailLines=1"); tail != fmt.Sprintf("last %d\n", lines) {
		t.Errorf("kubectl would show as the last line %q, of %d", tail, lines)
	}
}

// logFiles are a container's, the oldest first: "0.log.20261123-180000.gz", …, "0.log".
func logFiles(t *testing.T, dir string) []string {
	t.Helper()
	rotated, err := filepath.Glob(dir + "/0.log.*")
	check(t, err)
	slices.Sort(rotated)
	return append(rotated, filepath.Join(dir, "0.log"))
}

// checkNumbers reads the files as one log. The writer's numbers must follow each other from 1, and the last line must name the last; that
// is returned.
func checkNumbers(t *testing.T, files []string) int {
	t.Helper()
	next, whole, last := 1, "", ""
	for _, file := range files {
		lines := bufio.NewScanner(open(t, file))
		for lines.Scan() {
			entry, err := logs.Parse(lines.Bytes())
			if err != nil {
				t.Fatalf("%s, after line %d: torn: %v: %.200q", file, next-1, err, lines.Bytes())
			}
			whole += string(entry.Content)
			if entry.Partial {
				continue
			}
			switch {
			case last != "":
				t.Fatalf("%s: %.200q after the last line", file, whole)
			case whole == fmt.Sprint(next):
				next++
			case strings.HasPrefix(whole, "last "):
				last = whole
			case strings.Trim(whole, "x") != "" || len(whole) != 40000:
				t.Fatalf("%s: %.200q (%d bytes) where %d should be", file, whole, len(whole), next)
			}
			whole = ""
		}
		check(t, lines.Err())
	}
	if last != fmt.Sprintf("last %d", next-1) {
		t.Fatalf("the last line is %q, the last number %d", last, next-1)
	}
	return next - 1
}

func open(t *testing.T, file string) io.Reader {
	t.Helper()
	f, err := os.Open(file)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	if filepath.Ext(file) != ".gz" {
		return f
	}
	unzipped, err := gzip.NewReader(f)
	check(t, err)
	return unzipped
}
