package cgroup

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"fermata/internal/linux"
)

// guardDevices brings a v2 group's device rules to r: a program is attached, then what was attached before is taken off. Every attached program
// must allow, so what both allow stays allowed in between and nothing else ever is.
func (h *hierarchy) guardDevices(rel string, r *deviceRules) (err error) {
	dir, err := h.open(rel, ".", os.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	old, err := dir.DevicePrograms()
	if err != nil {
		return err
	}
	defer linux.CloseAll(old...)
	if !r.all() {
		program, err := linux.LoadDeviceProgram(deviceProgram(r))
		if err != nil {
			return err
		}
		defer program.Close() // the group keeps it
		if err := dir.AttachDeviceProgram(program); err != nil {
			return err
		}
	}
	var failed []error
	for _, p := range old {
		failed = append(failed, dir.DetachDeviceProgram(p))
	}
	return errors.Join(failed...)
}

// eBPF, <linux/bpf.h>: opcodes of the instructions used.
const (
	opLoadWord = 0x61 // dst = *(u32 *)(src + off)
	opAnd32    = 0x54 // (u32)dst &= imm
	opShift32  = 0x74 // (u32)dst >>= imm
	opCopy32   = 0xbc // (u32)dst = (u32)src
	opSet      = 0xb7 // dst = imm
	opUnless32 = 0x56 // if (u32)dst != imm goto +off: Linux 5.1
	opIf32     = 0x16 // if (u32)dst == imm goto +off
	opExit     = 0x95 // return r0
)

// Registers of a device program after its prologue.
const (
	regVerdict = iota // r0: 1 allows, 0 denies with EPERM
	regScratch        // r1: first, struct bpf_cgroup_dev_ctx *
	regKind           // r2
	regAccess         // r3
	regMajor          // r4
	regMinor          // r5
)

// programKind are BPF_DEVCG_DEV_*.
var programKind = map[byte]uint32{'b': 1, 'c': 2}

// assembler builds a program, one struct bpf_insn after the other.
type assembler struct{ code []byte }

func (a *assembler) add(op byte, dst, src int, off int16, imm uint32) {
	a.code = append(a.code, op, byte(dst|src<<4)) // bit fields: low nibble first on little-endian machines, which are all we have
	a.code = binary.LittleEndian.AppendUint16(a.code, uint16(off))
	a.code = binary.LittleEndian.AppendUint32(a.code, imm)
}

// deviceProgram compiles rules: the first exception that matches decides, otherwise the default. An exception that allows must allow every access
// asked for at once (open for reading and writing is one question); one that denies denies if it denies any.
func deviceProgram(r *deviceRules) []byte {
	var a assembler
	a.add(opLoadWord, regKind, regScratch, 0, 0) // access_type: kind in the lower half, access in the upper
	a.add(opCopy32, regAccess, regKind, 0, 0)
	a.add(opAnd32, regKind, 0, 0, 0xffff)
	a.add(opShift32, regAccess, 0, 0, 16)
	a.add(opLoadWord, regMajor, regScratch, 4, 0)
	a.add(opLoadWord, regMinor, regScratch, 8, 0)
	for _, d := range r.sorted() {
		a.exception(d, r.but[d], !r.allow)
	}
	a.verdict(r.allow)
	return a.code
}

func (a *assembler) exception(d device, has access, allow bool) {
	type test struct {
		op  byte
		reg int
		imm uint32
	}
	tests := []test{{opUnless32, regKind, programKind[d.kind]}}
	if d.major >= 0 {
		tests = append(tests, test{opUnless32, regMajor, uint32(d.major)})
	}
	if d.minor >= 0 {
		tests = append(tests, test{opUnless32, regMinor, uint32(d.minor)})
	}
	rest := len(tests) + 2           // instructions from here to the next exception: the tests, and two for the verdict
	if has != everything || !allow { // a question about no access at all (F_OK) is never denied by an exception
		mask, op := uint32(^has&everything), byte(opUnless32) // allow: nothing asked for is beyond
		if !allow {
			mask, op = uint32(has), opIf32 // deny: something asked for is within
		}
		a.add(opCopy32, regScratch, regAccess, 0, 0)
		a.add(opAnd32, regScratch, 0, 0, mask)
		a.add(op, regScratch, 0, int16(rest), 0)
	}
	for _, t := range tests {
		rest--
		a.add(t.op, t.reg, 0, int16(rest), t.imm)
	}
	a.verdict(allow)
}

func (a *assembler) verdict(allow bool) {
	var v uint32
	if allow {
		v = 1
	}
	a.add(opSet, regVerdict, 0, 0, v)
	a.add(opExit, 0, 0, 0, 0)
}
