#include "textflag.h"

// The stage and pause. Neither is ever executed inside a Go process: code_generated.go holds their bytes (go test -update), which
// StageELF and PauseELF wrap. They use no symbol, so that they run wherever they are put, and end at INT 3. layout.go has the numbers.
//
// After SYSCALL, RCX and R11 are gone and all else but RAX is kept.

// BX the op, R13 the slots, R12 the op's flags.
TEXT ·stageCode(SB),NOSPLIT|NOFRAME,$0-0
	// The kernel names a process by the file's base name, here a number in /proc/self/fd: prctl(PR_SET_NAME, "fermata-stage").
	MOVQ	$0x6567617473, AX	// "stage"
	PUSHQ	AX
	MOVQ	$0x2d6174616d726566, AX	// "fermata-"
	PUSHQ	AX
	MOVL	$157, AX
	MOVL	$15, DI
	MOVQ	SP, SI
	SYSCALL

	// The size of the program: lseek(4, 0, SEEK_END).
	MOVL	$8, AX
	MOVL	$4, DI
	XORL	SI, SI
	MOVL	$2, DX
	SYSCALL
	TESTQ	AX, AX
	JLT	before

	// mmap(programBase, size, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, 4, 0): slots are written, to a copy.
	MOVQ	AX, SI
	MOVL	$9, AX
	MOVL	$0x10000000, DI
	MOVL	$3, DX
	MOVL	$0x12, R10
	MOVL	$4, R8
	XORL	R9, R9
	SYSCALL
	CMPQ	AX, $-4095
	JCC	before

	MOVQ	AX, R13
	MOVQ	$0x106174616d726566, CX	// "fermata", version 1, amd64
	CMPQ	CX, (R13)
	JNE	foreign
	MOVQ	8(R13), BX
	ADDQ	$64, R13

op:
	MOVL	4(BX), R12
	MOVQ	8(BX), DI
	MOVQ	16(BX), SI
	MOVQ	24(BX), DX
	MOVQ	32(BX), R10
	MOVQ	40(BX), R8
	MOVQ	48(BX), R9
	BTL	$0, R12
	JCC	arg1
	MOVQ	(R13)(DI*8), DI
arg1:
	BTL	$1, R12
	JCC	arg2
	MOVQ	(R13)(SI*8), SI
arg2:
	BTL	$2, R12
	JCC	arg3
	MOVQ	(R13)(DX*8), DX
arg3:
	BTL	$3, R12
	JCC	arg4
	MOVQ	(R13)(R10*8), R10
arg4:
	BTL	$4, R12
	JCC	arg5
	MOVQ	(R13)(R8*8), R8
arg5:
	BTL	$5, R12
	JCC	call
	MOVQ	(R13)(R9*8), R9
call:
	MOVQ	DI, AX			// the result if there is no call: a difference
	SUBQ	SI, AX
	BTL	$6, R12
	JCS	save
	MOVLQSX	(BX), AX
	SYSCALL
save:
	MOVQ	56(BX), CX
	MOVQ	AX, (R13)(CX*8)
	MOVQ	AX, (R13)		// slot 0: the last result
	CMPQ	AX, $-4095
	JCC	error
	TESTQ	AX, AX
	JEQ	zero
	MOVQ	112(BX), BX
	JMP	op
zero:
	MOVQ	104(BX), BX
	JMP	op

error:
	MOVQ	AX, CX
	NEGQ	CX
	CMPQ	CX, $192
	JCC	rest
	BTQ	CX, 64(BX)
	JCC	rest
	MOVQ	88(BX), BX
	JMP	op
rest:
	MOVQ	96(BX), CX
	TESTQ	CX, CX
	JEQ	fail
	MOVQ	CX, BX
	JMP	op
fail:
	MOVQ	120(BX), CX
	JMP	report

foreign:
	MOVQ	$-8, AX			// ENOEXEC: not a program of this stage
before:
	MOVQ	$-1, CX
report:
	PUSHQ	CX			// write(3, {-errno, op}, 16)
	PUSHQ	AX
	MOVL	$1, AX
	MOVL	$3, DI
	MOVQ	SP, SI
	MOVL	$16, DX
	SYSCALL
	MOVL	$231, AX		// exit_group(125)
	MOVL	$125, DI
	SYSCALL
	INT	$3

TEXT ·pauseCode(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ	$0x6573756170, AX	// prctl(PR_SET_NAME, "fermata-pause")
	PUSHQ	AX
	MOVQ	$0x2d6174616d726566, AX
	PUSHQ	AX
	MOVL	$157, AX
	MOVL	$15, DI
	MOVQ	SP, SI
	SYSCALL
wait:
	MOVL	$271, AX		// ppoll(NULL, 0, NULL, NULL, 8): for ever, and again after SIGCONT
	XORL	DI, DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	MOVL	$8, R8
	SYSCALL
	JMP	wait
	INT	$3
