// Package logs writes a container's output in the CRI's log format, which the kubelet reads:
//
//	2016-10-06T00:17:09.669794202Z stdout F content of a whole line
//	2016-10-06T00:17:09.669794202Z stderr P piece of a line, more follows
//
// A [Splitter] turns a stream's bytes into entries, a [Writer] puts entries into a file that may be full, broken or replaced without
// ever stopping the container, and [Parse] reads an entry back.
//
// The boundaries (LOG-2 to LOG-5 of cri.md): a line of exactly the longest length is one F, a byte more makes P and F; what has no
// newline at the stream's end is P; with a terminal a "\r" before "\n" is dropped and does not count.
//
// What belongs elsewhere: reading pipes and deciding when (package keeper), making directories and rotating (the daemon, the kubelet).
package logs
