// Command applets is every program that critest's images need and Debian's busybox lacks, in one static binary that acts by the
// name it is called by: nginx and httpd (web servers that look like their namesakes), pgrep, ipcs, and nonewprivs.
//
// It stands in for images that no registry here serves; what critest asserts about them is written beside each.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	name := filepath.Base(strings.TrimSuffix(strings.Fields(os.Args[0])[0], ":"))
	applets := map[string]func(args []string) int{
		"nginx": nginx, "httpd": httpd, "pgrep": pgrep, "ipcs": ipcs, "nonewprivs": nonewprivs,
	}
	run, ok := applets[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%s: no such applet\n", name)
		os.Exit(127)
	}
	os.Exit(run(os.Args[1:]))
}

// nginx serves a page on NGINX_PORT (80). critest looks for its process title ("master process") in /proc/1/cmdline, for its
// name with pidof, and for its process number in /var/run/nginx.pid.
func nginx([]string) int {
	const title = "nginx: master process nginx -g daemon off;"
	if os.Args[0] != title {
		self, err := os.Readlink("/proc/self/exe")
		if err == nil {
			err = syscall.Exec(self, []string{title}, os.Environ())
		}
		return fail("nginx", err)
	}
	pid := fmt.Appendf(nil, "%d\n", os.Getpid())
	if err := os.WriteFile("/var/run/nginx.pid", pid, 0o644); err != nil {
		return fail("nginx", err)
	}
	return serve("nginx", os.Getenv("NGINX_PORT"))
}

// httpd serves a page on port 80. critest looks for "httpd" in its log.
func httpd([]string) int { return serve("httpd", "80") }

func serve(name, port string) int {
	if port == "" {
		port = "80"
	}
	log.SetPrefix(name + ": ")
	log.Printf("%s: resuming normal operations on port %s", name, port)
	return fail(name, http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s", r.Method, r.URL.Path)
		fmt.Fprintln(w, "<html><body><h1>It works!</h1></body></html>")
	})))
}

// pgrep prints the numbers of the processes with the name given.
func pgrep(args []string) int {
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	found := 1
	for _, path := range comms {
		comm, err := os.ReadFile(path)
		pid := filepath.Base(filepath.Dir(path))
		if err != nil || pid == fmt.Sprint(os.Getpid()) || len(args) != 1 || !strings.Contains(string(comm), args[0]) {
			continue
		}
		fmt.Println(pid)
		found = 0
	}
	return found
}

// ipcs prints the IPC namespace's shared memory segments by number.
func ipcs([]string) int {
	segments, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return fail("ipcs", err)
	}
	fmt.Println("------ Shared Memory Segments --------\nkey        shmid      owner      perms      bytes      nattch     status")
	for _, line := range strings.Split(string(segments), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 6 {
			fmt.Printf("%-10s %-10s %-10s %-10s %-10s %s\n", f[0], f[1], f[7], f[2], f[3], f[6])
		}
	}
	return 0
}

// nonewprivs is set-user-ID root in its image and tells whether that took effect.
func nonewprivs([]string) int {
	fmt.Printf("Effective uid: %d\n", os.Geteuid())
	return 0
}

func fail(name string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	return 1
}
