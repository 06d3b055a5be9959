package apparmor

import "strings"

// DefaultName is the profile of containers that ask for none and of those that ask for the runtime's.
const DefaultName = "fermata-default"

// defaultProfile is for containers with the usual namespaces, whatever their capabilities. What is not granted is denied: mounting above
// all, other profiles, other processes than those under the same one. "deny" is for what "file" would grant.
//
// It includes no file of /etc/apparmor.d: those differ by distribution, and may be missing.
const defaultProfile = `# Made by fermata: what is changed here is lost.
profile fermata-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (send,receive) peer=fermata-default,
  signal (receive) peer=unconfined,
  ptrace (trace,read,tracedby,readby) peer=fermata-default,
@DAEMON@
  # A mount hides what the paths below name, or shows it elsewhere.
  deny mount,
  deny remount,
  deny pivot_root,
  # The policy itself.
  deny capability mac_admin,
  deny capability mac_override,

  # /proc but for its processes and /proc/sys: settings of the node. Those to be read at most with care: memory and keys.
  deny /proc/[^0-9]* wkl,
  deny /proc/[^0-9s]*/** wkl,
  deny /proc/s[^y]*/** wkl,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/{kcore,kmem,mem} rwklx,
  deny /proc/acpi/** rwklx,

  # /proc/sys but for what belongs to a namespace: net, fs/mqueue, kernel/{shm*,msg*,sem,hostname,domainname}.
  deny /proc/sys/[^fkn]** wkl,
  deny /proc/sys/n[^e]** wkl,
  deny /proc/sys/fs/[^m]** wkl,
  deny /proc/sys/fs/m[^q]** wkl,
  deny /proc/sys/kernel/[^dhms]** wkl,
  deny /proc/sys/kernel/d[^o]** wkl,
  deny /proc/sys/kernel/h[^o]** wkl,
  deny /proc/sys/kernel/ho[^s]** wkl,
  deny /proc/sys/kernel/m[^s]** wkl,
  deny /proc/sys/kernel/ms[^g]** wkl,
  deny /proc/sys/kernel/s[^eh]** wkl,
  deny /proc/sys/kernel/se[^m]** wkl,
  deny /proc/sys/kernel/sh[^m]** wkl,

  # /sys but for /sys/fs/cgroup, whose release_agent is run by the host (CVE-2022-0492).
  deny /sys/[^f]** wkl,
  deny /sys/f[^s]** wkl,
  deny /sys/fs/[^c]** wkl,
  deny /sys/fs/c[^g]** wkl,
  deny /sys/fs/cgroup/{,**/}release_agent wkl,
  # Firmware's tables, policies and debugging interfaces, and power figures precise enough to leak keys (CVE-2020-8694).
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/{security,debug,tracing}/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,

  # Memory and ports, should a device file of them be made.
  deny /dev/{mem,kmem,port} rwklx,
}
`

// profileText is the default profile for a machine on which the daemon itself runs under a profile, "" or "unconfined" for none: containers
// must take its signals and its looks into /proc.
func profileText(daemon string) string {
	var rules string
	if daemon != "" && daemon != "unconfined" {
		peer := `"` + strings.ReplaceAll(daemon, `"`, "") + `"`
		rules = "  signal (receive) peer=" + peer + ",\n  ptrace (readby,tracedby) peer=" + peer + ",\n"
	}
	return strings.Replace(defaultProfile, "@DAEMON@\n", rules, 1)
}
