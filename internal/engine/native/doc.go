// Package native runs containers with the kernel alone: it compiles each launch into a program of system calls.
//
// The whole preparation is here, in Go, before anything is launched, on descriptors of detached mounts; what is left for the program
// is a straight line inside the container's namespaces. Its seven rules are those of the engine specification (R1-R7): no privileged
// process where a container can see it; descriptors, not paths; procfs of our own; only descriptors 0-2 survive; nothing of the
// rootfs is run or parsed by a library on the host; configuration is data; least exposure of ourselves. A descriptor step that fails
// is an error, never a reason to try a path.
//
// What belongs elsewhere: the assembler and the program builder (package launch), BPF (package seccomp), cgroups (package cgroup).
package native
