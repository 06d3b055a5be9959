package launch

import (
	"bytes"
	"debug/elf"
	"testing"
)

// The kernel maps a page at a time, of 4, 16 or 64 KiB: what the header says must hold for each.
func TestExecutablesAreWellFormedForEveryPageSize(t *testing.T) {
	for a, machine := range map[Arch]elf.Machine{AMD64: elf.EM_X86_64, ARM64: elf.EM_AARCH64} {
		for name, data := range map[string][]byte{"stage": StageELF(a), "pause": PauseELF(a)} {
			t.Run(name+" "+a.String(), func(t *testing.T) {
				f, err := elf.NewFile(bytes.NewReader(data))
				if err != nil {
					t.Fatal(err)
				}
				if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 2 {
					t.Fatalf("%v %v with %d segments", f.Machine, f.Type, len(f.Progs))
				}
				load, stack := f.Progs[0], f.Progs[1]
				if load.Type != elf.PT_LOAD || load.Flags != elf.PF_R|elf.PF_X || load.Filesz != uint64(len(data)) || load.Memsz != load.Filesz {
					t.Errorf("load segment %+v", load.ProgHeader)
				}
				if load.Align%0x10000 != 0 || (load.Vaddr-load.Off)%load.Align != 0 || programBase%0x10000 != 0 {
					t.Errorf("aligned for smaller pages only: %+v", load.ProgHeader)
				}
				if f.Entry < load.Vaddr || f.Entry >= load.Vaddr+load.Filesz || f.Entry%4 != 0 {
					t.Errorf("entry %#x", f.Entry)
				}
				if stack.Type != elf.PT_GNU_STACK || stack.Flags != elf.PF_R|elf.PF_W {
					t.Errorf("the stack is executable: %+v", stack.ProgHeader)
				}
				if len(data) > 1024 {
					t.Errorf("%d bytes", len(data))
				}
			})
		}
	}
}
