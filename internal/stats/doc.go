// Package stats turns figures into the CRI's stats and metrics, and measures what control groups do not count: space of a directory tree, file systems,
// and what processes have open.
//
// Metrics are one table ([Descriptors], [Metrics]): a name, a help text, labels, and where in [Figures] the value is.
//
// It promises to measure only when asked, and to keep no descriptor open. What belongs elsewhere: reading control groups (package cgroup) and network
// counters (package network); which pods and containers there are, and whose figures are wanted (package pod).
package stats
