// Package linux holds every system call fermata makes, and the type that owns a file descriptor.
//
// It is the only importer of golang.org/x/sys/unix (package launch, which compiles system calls instead of making them, uses the
// numbers too). A wrapper retries EINTR, sets O_CLOEXEC at birth, and names operation and object in its error, with the errno
// askable by errors.Is. Descriptors come first, paths second; a path that somebody else can change is resolved by openat2 below a
// descriptor ([FD.OpenBeneath], [FD.OpenInRoot]) and never by the host's rules.
//
// What belongs elsewhere: policy. Nothing here knows of pods, containers or cgroup names.
package linux
