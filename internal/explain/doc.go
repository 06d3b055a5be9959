// Package explain says what a node's pods are made of, for people: which process is whose, who shares which namespace and what holds it open,
// what a container has changed in its files; and why one is where it is ([Explainer.Why]).
//
// An [Explainer] joins two things and keeps neither: the pods' records, and one look at /proc a question. Nothing is asked process by process
// or pod by pod, so that a node of 500 pods is explained in a tenth of a second.
//
// What belongs elsewhere: how it is shown (package cli), the messages (package service), figures over time (package stats).
package explain

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/image"
	"fermata/internal/pod"
)

// Pods are the node's (package pod's Manager).
type Pods interface {
	See() []pod.Seen
	Layers(containerID string) (upper string, lowers []string, err error)
	ListContainerStats(filter *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats
}

// Stories are the pods that there are and were (package pod's Manager).
type Stories interface{ Stories() []pod.Story }

// Pulls are those under way and of the last hour (package image's Store).
type Pulls interface{ Attempts() []image.Attempt }

var (
	_ Pods    = (*pod.Manager)(nil)
	_ Stories = (*pod.Manager)(nil)
	_ Pulls   = (*image.Store)(nil)
)

// Explainer answers questions about a node.
type Explainer struct {
	Pods Pods
	// Keeper returns the keeper's process.
	Keeper func() (pid int, err error)
	// Proc is where proc(5) is mounted.
	Proc string
	// Stories and Pulls are what [Explainer.Why] tells of.
	Stories Stories
	Pulls   Pulls
	// Working says what a network plugin does for a sandbox right now; nil for no plugins.
	Working func(sandboxID string) (plugin, verb string, since time.Time, at bool)
}
