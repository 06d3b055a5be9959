package manifest

import (
	"path"
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and annotations: the kubelet's own where it has them, so that every tool that reads them finds the names it knows.
const (
	PodName       = "io.kubernetes.pod.name"
	PodNamespace  = "io.kubernetes.pod.namespace"
	PodUID        = "io.kubernetes.pod.uid"
	ContainerName = "io.kubernetes.container.name"

	// GracePeriod on a container is how many seconds a stop waits.
	GracePeriod = "io.kubernetes.pod.terminationGracePeriod"

	// Data on a pod is the directory with its logs and emptyDir volumes, which goes with the pod.
	Data = "fermata.local/data"
	// RestartPolicy on a pod is the manifest's; `fermata run` starts a container once, only the kubelet restarts.
	RestartPolicy = "fermata.local/restart-policy"
	// RoleLabel on a container is its [Role].
	RoleLabel = "fermata.local/role"
)

// Facts are what the requests depend on beside the pod.
type Facts struct {
	// UID is used when the manifest has none.
	UID string
	// Data is the pod's own directory, absolute: logs and emptyDir volumes.
	Data string
	// Memory of the machine in bytes, for the out-of-memory scores of burstable pods; 0 = not known.
	Memory int64
	// PodIPs are known once the sandbox runs; before, variables that refer to them are empty.
	PodIPs []string
	// HostDNS is the host's resolv.conf, to which spec.dnsConfig is added; nil = it has none.
	HostDNS *runtimeapi.DNSConfig
}

// Role is when a container runs.
type Role string

// The roles, in the order of a start: init containers one by one to their end and sidecars among them, then the rest.
const (
	Init    Role = "init"
	Sidecar Role = "sidecar"
	Main    Role = "main"
)

// Plan is everything to be done for a pod, in order: the volumes, the sandbox, the containers.
type Plan struct {
	Volumes    []Source
	Sandbox    *runtimeapi.PodSandboxConfig
	Containers []Planned
}

// Planned is one container of a plan.
type Planned struct {
	Role       Role
	PullPolicy string
	Config     *runtimeapi.ContainerConfig
}

// Convert plans a pod. It is called again with Facts.PodIPs once they are known; nothing but the variables that show them differs.
func Convert(pod *Pod, facts Facts) *Plan {
	if pod.Metadata.UID != "" {
		facts.UID = pod.Metadata.UID
	}
	plan := &Plan{Volumes: sources(pod, facts), Sandbox: sandbox(pod, facts)}
	for i := range pod.Spec.InitContainers {
		role := Init
		if pod.Spec.InitContainers[i].RestartPolicy == "Always" {
			role = Sidecar
		}
		plan.Containers = append(plan.Containers, planned(pod, facts, &pod.Spec.InitContainers[i], role))
	}
	for i := range pod.Spec.Containers {
		plan.Containers = append(plan.Containers, planned(pod, facts, &pod.Spec.Containers[i], Main))
	}
	return plan
}

func sandbox(pod *Pod, facts Facts) *runtimeapi.PodSandboxConfig {
	meta := pod.Metadata
	labels := map[string]string{PodName: meta.Name, PodNamespace: meta.Namespace, PodUID: facts.UID}
	for k, v := range meta.Labels {
		labels[k] = v
	}
	annotations := map[string]string{Data: facts.Data, RestartPolicy: pod.Spec.RestartPolicy}
	for k, v := range meta.Annotations {
		annotations[k] = v
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: meta.Name, Namespace: meta.Namespace, Uid: facts.UID},
		LogDirectory: filepath.Join(facts.Data, "logs"),
		DnsConfig:    dns(pod, facts),
		Labels:       labels,
		Annotations:  annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: sandboxSecurity(pod),
			Sysctls:         sysctls(pod),
		},
	}
	if !pod.Spec.HostNetwork {
		config.Hostname = hostname(pod)
		config.PortMappings = ports(pod)
	}
	return config
}

// hostname is the pod's name cut to what a UTS namespace is asked to hold (kubelet, util.GetHostname…: 63 bytes).
func hostname(pod *Pod) string {
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Metadata.Name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// dns is nil where the host's own settings are meant: there is no cluster whose DNS could come first.
func dns(pod *Pod, facts Facts) *runtimeapi.DNSConfig {
	given := pod.Spec.DNSConfig
	if given == nil {
		return nil
	}
	config := &runtimeapi.DNSConfig{}
	if pod.Spec.DNSPolicy != "None" {
		config.Servers = append(config.Servers, facts.HostDNS.GetServers()...)
		config.Searches = append(config.Searches, facts.HostDNS.GetSearches()...)
		config.Options = append(config.Options, facts.HostDNS.GetOptions()...)
	}
	config.Servers = append(config.Servers, given.Nameservers...)
	config.Searches = append(config.Searches, given.Searches...)
	for _, o := range given.Options {
		if o.Value != nil && *o.Value != "" {
			config.Options = append(config.Options, o.Name+":"+*o.Value)
		} else {
			config.Options = append(config.Options, o.Name)
		}
	}
	return config
}

func ports(pod *Pod) []*runtimeapi.PortMapping {
	var mappings []*runtimeapi.PortMapping
	for _, list := range [][]Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			for _, p := range c.Ports {
				mappings = append(mappings, &runtimeapi.PortMapping{
					Protocol: protocols[p.Protocol], ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
				})
			}
		}
	}
	return mappings
}

var protocols = map[string]runtimeapi.Protocol{
	"TCP": runtimeapi.Protocol_TCP, "UDP": runtimeapi.Protocol_UDP, "SCTP": runtimeapi.Protocol_SCTP,
}

func sysctls(pod *Pod) map[string]string {
	if len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	set := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		set[s.Name] = s.Value
	}
	return set
}

func planned(pod *Pod, facts Facts, c *Container, role Role) Planned {
	grace := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	envs, lookup := environment(pod, facts, c)
	return Planned{Role: role, PullPolicy: c.ImagePullPolicy, Config: &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name},
		Image:      &runtimeapi.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image},
		Command:    expandAll(c.Command, lookup),
		Args:       expandAll(c.Args, lookup),
		WorkingDir: c.WorkingDir,
		Envs:       envs,
		Mounts:     mounts(pod, facts, c),
		Labels: map[string]string{
			ContainerName: c.Name, PodName: pod.Metadata.Name, PodNamespace: pod.Metadata.Namespace, PodUID: facts.UID,
			RoleLabel: string(role),
		},
		Annotations: map[string]string{GracePeriod: strconv.FormatInt(grace, 10)},
		LogPath:     path.Join(c.Name, "0.log"),
		Stdin:       c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       resources(pod, facts, c),
			SecurityContext: containerSecurity(pod, c),
		},
	}}
}

func expandAll(words []string, lookup func(string) (string, bool)) []string {
	var out []string
	for _, w := range words {
		out = append(out, expand(w, lookup))
	}
	return out
}

// environment returns the variables in order; a value may refer to the ones before it.
func environment(pod *Pod, facts Facts, c *Container) ([]*runtimeapi.KeyValue, func(string) (string, bool)) {
	known := map[string]string{}
	lookup := func(name string) (string, bool) {
		v, ok := known[name]
		return v, ok
	}
	var envs []*runtimeapi.KeyValue
	for _, e := range c.Env {
		value := expand(e.Value, lookup)
		if e.ValueFrom != nil {
			value, _ = fieldValue(pod, facts, e.ValueFrom.FieldRef.FieldPath)
		}
		known[e.Name] = value
		envs = append(envs, &runtimeapi.KeyValue{Key: e.Name, Value: []byte(value)})
	}
	return envs, lookup
}

var fieldPaths = []string{
	"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels['x']", "metadata.annotations['x']",
	"status.podIP", "status.podIPs",
}

// fieldValue returns what a field path stands for and whether it is one of fieldPaths.
func fieldValue(pod *Pod, facts Facts, fieldPath string) (string, bool) {
	if name, key, ok := strings.Cut(strings.TrimSuffix(fieldPath, "']"), "['"); ok {
		switch name {
		case "metadata.labels":
			return pod.Metadata.Labels[key], true
		case "metadata.annotations":
			return pod.Metadata.Annotations[key], true
		}
		return "", false
	}
	switch fieldPath {
	case "metadata.name":
		return pod.Metadata.Name, true
	case "metadata.namespace":
		return pod.Metadata.Namespace, true
	case "metadata.uid":
		return facts.UID, true
	case "status.podIP":
		if len(facts.PodIPs) > 0 {
			return facts.PodIPs[0], true
		}
		return "", true
	case "status.podIPs":
		return strings.Join(facts.PodIPs, ","), true
	}
	return "", false
}
