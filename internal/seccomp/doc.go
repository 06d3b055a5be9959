// Package seccomp turns an OCI seccomp profile into the BPF program the kernel runs on every system call of a container.
//
// It is a compiler of its own, in pure Go: profile → rules by architecture and number → binary search over ranges → instructions. moby's default
// profile becomes some 220 instructions in a fifth of a millisecond, once; see [Compile] for what a program answers beyond its rules.
//
// It knows x86_64 with x86 beside it, and aarch64 with arm. x32 may be listed, but its calls answer ENOSYS as from a kernel without it, which is
// what nearly every kernel is: nobody uses it but who looks for holes.
//
// What belongs elsewhere: loading the program (package launch does it in the new process, last before execve), which profile a container gets
// (package pod), and agents for SCMP_ACT_NOTIFY, which are refused.
package seccomp
