// Package seccomp turns an OCI seccomp profile into the BPF program the kernel runs on every system call of a container.
//
// It is a compiler of its own, in pure Go: profile → rules by architecture and number → binary search over ranges → instructions.
// It knows x86_64 with x86 and x32, and aarch64 with arm. A call of an architecture the profile does not list kills the process; a
// call newer than any number known here answers ENOSYS, so that a C library falls back as it does on an old kernel.
//
// What belongs elsewhere: loading the program (package launch does it in the new process, last before execve), and which profile a
// container gets (package pod).
package seccomp
