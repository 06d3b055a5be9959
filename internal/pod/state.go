package pod

import (
	"fmt"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// State is where a pod or a container stands in its life. Which moves are legal is in one table a kind; anything else is a bug and an error.
//
//	pod:        preparing ──▶ ready ──▶ notready ──▶ removing
//	                │                      ▲ │          ▲
//	                ├──────────────────────┘ └──────────┤
//	                └───────────────────────────────────┘
//
//	container:  preparing ──▶ created ──▶ starting ──▶ running ──▶ exited ──▶ removing
//	                │            │            │                      ▲          ▲ ▲
//	                │            │            └──────────────────────┘          │ │
//	                │            └──────────────────────────────────────────────┘ │
//	                └─────────────────────────────────────────────────────────────┘
type State string

// The states. Preparing is not shown to anybody: the thing does not exist yet. Removing is not shown any more.
const (
	Preparing State = "preparing"
	Ready     State = "ready"
	NotReady  State = "notready"
	Created   State = "created"
	Starting  State = "starting"
	StateRun  State = "running"
	Exited    State = "exited"
	Removing  State = "removing"
)

var podMoves = map[State][]State{
	Preparing: {Ready, NotReady, Removing},
	Ready:     {NotReady},
	NotReady:  {Removing},
}

var containerMoves = map[State][]State{
	Preparing: {Created, Removing},
	Created:   {Starting, Removing},
	Starting:  {StateRun, Exited},
	StateRun:  {Exited},
	Exited:    {Removing},
}

// move checks one step of a life.
func move(legal map[State][]State, object string, from, to State) error {
	if from == to || slices.Contains(legal[from], to) {
		return nil
	}
	return fmt.Errorf("move %s from %s to %s: not a legal move", object, from, to)
}

// criPod is the state as the CRI names it.
func (s State) criPod() runtimeapi.PodSandboxState {
	if s == Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// criContainer is the state as the CRI names it. Starting counts as created: started_at is not set yet.
func (s State) criContainer() runtimeapi.ContainerState {
	switch s {
	case Preparing, Created, Starting:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case StateRun:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case Exited, Removing:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}
