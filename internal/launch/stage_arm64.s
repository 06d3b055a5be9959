#include "textflag.h"

// The stage and pause: see stage_amd64.s, of which this is the translation. R19 the op, R20 the slots, R21 its flags.
// The kernel keeps every register but R0.

TEXT ·stageCode(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	$0x2d6174616d726566, R1	// prctl(PR_SET_NAME, "fermata-stage")
	MOVD	$0x6567617473, R2
	SUB	$16, RSP
	STP	(R1, R2), (RSP)
	MOVD	$167, R8
	MOVD	$15, R0
	MOVD	RSP, R1
	SVC

	MOVD	$62, R8			// lseek(4, 0, SEEK_END)
	MOVD	$4, R0
	MOVD	$0, R1
	MOVD	$2, R2
	SVC
	TBNZ	$63, R0, before

	MOVD	R0, R1			// mmap(programBase, size, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, 4, 0)
	MOVD	$222, R8
	MOVD	$0x10000000, R0
	MOVD	$3, R2
	MOVD	$0x12, R3
	MOVD	$4, R4
	MOVD	$0, R5
	SVC
	CMN	$4095, R0
	BHS	before

	MOVD	R0, R20
	MOVD	$0x116174616d726566, R1	// "fermata", version 1, arm64
	MOVD	(R20), R2
	CMP	R1, R2
	BNE	foreign
	MOVD	8(R20), R19
	ADD	$64, R20

op:
	MOVWU	4(R19), R21
	MOVD	8(R19), R0
	MOVD	16(R19), R1
	MOVD	24(R19), R2
	MOVD	32(R19), R3
	MOVD	40(R19), R4
	MOVD	48(R19), R5
	TBZ	$0, R21, arg1
	MOVD	(R20)(R0<<3), R0
arg1:
	TBZ	$1, R21, arg2
	MOVD	(R20)(R1<<3), R1
arg2:
	TBZ	$2, R21, arg3
	MOVD	(R20)(R2<<3), R2
arg3:
	TBZ	$3, R21, arg4
	MOVD	(R20)(R3<<3), R3
arg4:
	TBZ	$4, R21, arg5
	MOVD	(R20)(R4<<3), R4
arg5:
	TBZ	$5, R21, call
	MOVD	(R20)(R5<<3), R5
call:
	TBZ	$6, R21, perform
	SUB	R1, R0			// no call: the result is a difference
	B	save
perform:
	MOVW	(R19), R8
	SVC
save:
	MOVD	56(R19), R6
	MOVD	R0, (R20)(R6<<3)
	MOVD	R0, (R20)		// slot 0: the last result
	CMN	$4095, R0
	BHS	error
	CBZ	R0, zero
	MOVD	112(R19), R19
	B	op
zero:
	MOVD	104(R19), R19
	B	op

error:
	NEG	R0, R6
	CMP	$192, R6
	BHS	rest
	LSR	$6, R6, R7
	ADD	$64, R19, R9
	MOVD	(R9)(R7<<3), R7
	LSR	R6, R7, R7		// by R6 mod 64
	TBZ	$0, R7, rest
	MOVD	88(R19), R19
	B	op
rest:
	MOVD	96(R19), R6
	CBZ	R6, fail
	MOVD	R6, R19
	B	op
fail:
	MOVD	120(R19), R6
	B	report

foreign:
	MOVD	$-8, R0			// ENOEXEC
before:
	MOVD	$-1, R6
report:
	SUB	$16, RSP		// write(3, {-errno, op}, 16)
	STP	(R0, R6), (RSP)
	MOVD	$64, R8
	MOVD	$3, R0
	MOVD	RSP, R1
	MOVD	$16, R2
	SVC
	MOVD	$94, R8			// exit_group(125)
	MOVD	$125, R0
	SVC
	BRK

TEXT ·pauseCode(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	$0x2d6174616d726566, R1	// prctl(PR_SET_NAME, "fermata-pause")
	MOVD	$0x6573756170, R2
	SUB	$16, RSP
	STP	(R1, R2), (RSP)
	MOVD	$167, R8
	MOVD	$15, R0
	MOVD	RSP, R1
	SVC
wait:
	MOVD	$73, R8			// ppoll(NULL, 0, NULL, NULL, 8)
	MOVD	$0, R0
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$8, R4
	SVC
	B	wait
	BRK
