// Package launch runs what must happen between clone and exec, without a line of Go in the new process.
//
// A [Builder] compiles a straight list of system calls, a launch program, in which later calls may use the results of earlier
// ones (slots), and which branches only forward: on a zero result (clone), on an error. A few hundred bytes of assembler, the
// stage, perform it in the new process and become the container's process by the program's last call. All choices and all parsing
// happen in Go before: what runs in the container's namespaces can be printed ([Program.Listing]), bounded and fuzzed, and it
// carries no secret of its maker. The pause process, first of every pod, is the stage's sibling: it names itself and waits for ever.
//
// # The life of a launch
//
//	keeper   ForkExec(stage), descriptors: 0 1 2 stdio, 3 report pipe, 4 program memory, 5… the files the program names
//	stage    prctl(PR_SET_NAME, "fermata-stage"); mmap(programBase, size of 4, private); for each op: slots in, call, result out
//	         an error that the op does not allow → 16 bytes into the report pipe (package report), exit status 125
//	         execve → the report pipe closes without a failure: the launch succeeded
//
// # What it promises
//
//   - No descriptor but 0, 1 and 2 reaches the target: the first op of every program marks all others close-on-exec, and an op that would
//     open one without that mark is refused by the builder.
//   - A program cannot run off its end, jump backwards or outside itself; every string and vector is a copy inside the program.
//   - The stage and pause lie on a tmpfs that is attached nowhere and whose superblock is read-only: what /proc/PID/exe leads to can be
//     neither written nor replaced (CVE-2019-5736).
//   - A failure names its op: `op 129 (mask /proc/kcore): no such file or directory`.
//
// # What its users must mind
//
//   - A seccomp filter that an op installs also judges the ops after it, and the stage's own write and exit_group: where it forbids
//     those, a failing execve ends the process without a report, by the filter's signal or with status 125.
//   - setns and unshare of a PID namespace count for children only: clone inside, and tell the keeper ([Builder.ReportPID]).
//   - The image of a program holds the environment's values; the listing does not.
//
// Elsewhere: which calls a sandbox, a container or an exec needs is package engine/native's; who forks, reads the report and reaps is
// the keeper's, which sees only package launch/report.
package launch
