package manifest

import (
	"encoding/json"
	"fmt"
)

// Pod is the part of a Kubernetes Pod that fermata carries out. Names and meanings are the Kubernetes API's; a nil pointer is a
// field that was not given.
type Pod struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Spec       Spec     `json:"spec"`
}

// Metadata names the pod. UID "" = make one.
type Metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	UID         string            `json:"uid"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Spec is what to run and in which surroundings.
type Spec struct {
	Containers                    []Container  `json:"containers"`
	InitContainers                []Container  `json:"initContainers"`
	Volumes                       []Volume     `json:"volumes"`
	RestartPolicy                 string       `json:"restartPolicy"`
	TerminationGracePeriodSeconds *int64       `json:"terminationGracePeriodSeconds"`
	HostNetwork                   bool         `json:"hostNetwork"`
	HostPID                       bool         `json:"hostPID"`
	HostIPC                       bool         `json:"hostIPC"`
	ShareProcessNamespace         bool         `json:"shareProcessNamespace"`
	Hostname                      string       `json:"hostname"`
	DNSPolicy                     string       `json:"dnsPolicy"`
	DNSConfig                     *DNSConfig   `json:"dnsConfig"`
	SecurityContext               *PodSecurity `json:"securityContext"`
	// EnableServiceLinks is taken and means nothing: there are no Services here.
	EnableServiceLinks bool `json:"enableServiceLinks"`
}

// Container is one container, init container or sidecar (an init container with restartPolicy Always).
type Container struct {
	Name            string             `json:"name"`
	Image           string             `json:"image"`
	ImagePullPolicy string             `json:"imagePullPolicy"`
	Command         []string           `json:"command"`
	Args            []string           `json:"args"`
	WorkingDir      string             `json:"workingDir"`
	Env             []EnvVar           `json:"env"`
	Ports           []Port             `json:"ports"`
	Resources       Resources          `json:"resources"`
	VolumeMounts    []VolumeMount      `json:"volumeMounts"`
	SecurityContext *ContainerSecurity `json:"securityContext"`
	RestartPolicy   string             `json:"restartPolicy"`
	Stdin           bool               `json:"stdin"`
	StdinOnce       bool               `json:"stdinOnce"`
	TTY             bool               `json:"tty"`
}

// EnvVar is a variable with a value or a reference to a field of the pod.
type EnvVar struct {
	Name      string     `json:"name"`
	Value     string     `json:"value"`
	ValueFrom *EnvSource `json:"valueFrom"`
}

// EnvSource is where a variable's value comes from; only fieldRef.
type EnvSource struct {
	FieldRef *FieldRef `json:"fieldRef"`
}

// FieldRef names a field of the pod: metadata.name, metadata.namespace, metadata.uid, metadata.labels['x'],
// metadata.annotations['x'], status.podIP, status.podIPs.
type FieldRef struct {
	APIVersion string `json:"apiVersion"`
	FieldPath  string `json:"fieldPath"`
}

// Port is a port of a container; HostPort 0 = not on the host.
type Port struct {
	Name          string `json:"name"`
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort"`
	HostIP        string `json:"hostIP"`
	Protocol      string `json:"protocol"`
}

// Resources are limits and requests by name: cpu, memory, hugepages-<size>.
type Resources struct {
	Limits   map[string]Quantity `json:"limits"`
	Requests map[string]Quantity `json:"requests"`
}

// Volume is a directory or file of the host, or an empty directory that lives as long as the pod.
type Volume struct {
	Name     string    `json:"name"`
	HostPath *HostPath `json:"hostPath"`
	EmptyDir *EmptyDir `json:"emptyDir"`
}

// HostPath is a path of the host; Type "" = no check.
type HostPath struct {
	Path string `json:"path"`
	Type string `json:"type"`
}

// EmptyDir has no fields that are carried out: neither a medium nor a size limit.
type EmptyDir struct{}

// VolumeMount is where a container sees a volume.
type VolumeMount struct {
	Name             string `json:"name"`
	MountPath        string `json:"mountPath"`
	SubPath          string `json:"subPath"`
	ReadOnly         bool   `json:"readOnly"`
	MountPropagation string `json:"mountPropagation"`
	// RecursiveReadOnly is Disabled or Enabled; IfPossible is refused, because what is possible is not known here.
	RecursiveReadOnly string `json:"recursiveReadOnly"`
}

// DNSConfig is added to what the DNS policy gives.
type DNSConfig struct {
	Nameservers []string    `json:"nameservers"`
	Searches    []string    `json:"searches"`
	Options     []DNSOption `json:"options"`
}

// DNSOption is an option of resolv.conf(5).
type DNSOption struct {
	Name  string  `json:"name"`
	Value *string `json:"value"`
}

// PodSecurity holds for every container that does not say otherwise.
type PodSecurity struct {
	RunAsUser                *int64   `json:"runAsUser"`
	RunAsGroup               *int64   `json:"runAsGroup"`
	RunAsNonRoot             *bool    `json:"runAsNonRoot"`
	SupplementalGroups       []int64  `json:"supplementalGroups"`
	SupplementalGroupsPolicy string   `json:"supplementalGroupsPolicy"`
	FSGroup                  *int64   `json:"fsGroup"`
	Sysctls                  []Sysctl `json:"sysctls"`
	SeccompProfile           *Profile `json:"seccompProfile"`
}

// ContainerSecurity is one container's.
type ContainerSecurity struct {
	RunAsUser                *int64        `json:"runAsUser"`
	RunAsGroup               *int64        `json:"runAsGroup"`
	RunAsNonRoot             *bool         `json:"runAsNonRoot"`
	Privileged               bool          `json:"privileged"`
	ReadOnlyRootFilesystem   bool          `json:"readOnlyRootFilesystem"`
	AllowPrivilegeEscalation *bool         `json:"allowPrivilegeEscalation"`
	Capabilities             *Capabilities `json:"capabilities"`
	ProcMount                string        `json:"procMount"`
	SeccompProfile           *Profile      `json:"seccompProfile"`
}

// Capabilities are added to and dropped from the default set, without the prefix CAP_.
type Capabilities struct {
	Add  []string `json:"add"`
	Drop []string `json:"drop"`
}

// Profile is a seccomp profile: RuntimeDefault, Unconfined, or Localhost with an absolute path.
type Profile struct {
	Type             string `json:"type"`
	LocalhostProfile string `json:"localhostProfile"`
}

// Sysctl is a kernel parameter of the pod's namespaces.
type Sysctl struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Quantity is a Kubernetes quantity in thousandths: "250m" is 250, "1Gi" is 2^30 × 1000.
type Quantity struct {
	Milli int64
	// wrong says why the text is no quantity; validate refuses it, because only there its path is known.
	wrong string
}

// UnmarshalJSON takes a quantity as a text or a number.
func (q *Quantity) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		s = string(text)
	}
	milli, err := parseQuantity(s)
	if err != nil {
		q.wrong = fmt.Sprintf("%q %v", s, err)
	}
	q.Milli = milli
	return nil
}

// Whole returns the quantity in whole units, rounded up as the kubelet does.
func (q Quantity) Whole() int64 {
	if q.Milli%1000 > 0 {
		return q.Milli/1000 + 1
	}
	return q.Milli / 1000
}
