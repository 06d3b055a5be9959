package pod

import (
	"encoding/json"
	"net/netip"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Recorded is a process in a record: the PID and, against its reuse, the pidfd's inode.
type Recorded struct {
	PID   int    `json:"pid"`
	Inode uint64 `json:"inode,omitempty"`
}

// PodRecord is a pod on disk (pods/<id>/pod.json), one file, readable by a person.
type PodRecord struct {
	ID     string                                `json:"id"`
	State  State                                 `json:"state"`
	Config message[*runtimeapi.PodSandboxConfig] `json:"config"`
	// Handler is the runtime handler asked for, "" the default.
	Handler string `json:"handler,omitempty"`
	// Request is the digest of the whole request, by which an equal one joins.
	Request string `json:"request"`
	// Claimed says that a caller has been given the ID; unclaimed pods are invisible and removed after [Unclaimed].
	Claimed bool      `json:"claimed"`
	Created time.Time `json:"created"`
	BootID  string    `json:"bootID"`
	Cgroup  string    `json:"cgroup"`
	Pause   Recorded  `json:"pause,omitzero"`
	// IPs are the pod's addresses, primary first; none with the host's network.
	IPs []netip.Addr `json:"ips,omitempty"`
	// Attached says that the network may hold something for this pod: set before it is asked, cleared after it gave all back.
	Attached bool `json:"attached,omitempty"`
	// SELinuxLevel is the pod's own, by which its containers are kept from other pods'; "" where SELinux is off.
	SELinuxLevel string `json:"selinuxLevel,omitempty"`
	// Reason and Message say why a pod is not ready.
	Reason  string  `json:"reason,omitempty"`
	Message string  `json:"message,omitempty"`
	Stages  []Stage `json:"stages,omitempty"`
}

// ContainerRecord is a container on disk (pods/<pod>/containers/<id>/container.json); its OCI spec lies beside it.
type ContainerRecord struct {
	ID      string                               `json:"id"`
	PodID   string                               `json:"pod"`
	State   State                                `json:"state"`
	Config  message[*runtimeapi.ContainerConfig] `json:"config"`
	Request string                               `json:"request"`
	Claimed bool                                 `json:"claimed"`
	Created time.Time                            `json:"created"`
	Started time.Time                            `json:"started,omitzero"`
	// ImageID, ImageName and ImageRef are of the image at the time of creation.
	ImageID   string `json:"imageID"`
	ImageName string `json:"imageName"`
	ImageRef  string `json:"imageRef"`
	// Lowers are the image's layers, topmost first: the image may lose its names before the container starts.
	Lowers []string `json:"lowers"`
	// ImageVolumes are the images it mounts.
	ImageVolumes []ImageVolume `json:"imageVolumes,omitempty"`
	// LogPath is absolute, also when nothing is logged (an empty one once made a kubelet delete a host's /bin).
	LogPath string `json:"logPath"`
	Cgroup  string `json:"cgroup"`
	// UID, GID and Groups are the first process's.
	UID        uint32         `json:"uid"`
	GID        uint32         `json:"gid"`
	Groups     []uint32       `json:"groups,omitempty"`
	StopSignal syscall.Signal `json:"stopSignal"`
	// Resources are the limits in force, after updates.
	Resources message[*runtimeapi.LinuxContainerResources] `json:"resources"`
	Process   Recorded                                     `json:"process,omitzero"`
	// Signalled says that the stop signal has been sent; it is sent once.
	Signalled bool  `json:"signalled,omitempty"`
	Exit      *Exit `json:"exit,omitempty"`
	// Reason and Message explain an exit: Completed, Error, OOMKilled, StartError, Unknown.
	Reason  string  `json:"reason,omitempty"`
	Message string  `json:"message,omitempty"`
	Stages  []Stage `json:"stages,omitempty"`
}

// message is a protobuf message inside a JSON record, in protobuf's own JSON form: the CRI's configuration is kept as it was
// received. Names that a newer fermata wrote are skipped on reading.
type message[M proto.Message] struct{ M M }

func wrap[M proto.Message](m M) message[M] { return message[M]{m} }

// MarshalJSON writes the message as protojson.
func (m message[M]) MarshalJSON() ([]byte, error) { return protojson.Marshal(m.M) }

// UnmarshalJSON reads protojson.
func (m *message[M]) UnmarshalJSON(b []byte) error {
	var zero M
	made := zero.ProtoReflect().New().Interface().(M)
	if string(b) == "null" || string(b) == "{}" {
		m.M = made
		return nil
	}
	m.M = made
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, made)
}

var _ json.Unmarshaler = (*message[*runtimeapi.PodSandboxConfig])(nil)
