package manifest

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// setDefaults does what the API server does to a pod before the kubelet sees it.
func setDefaults(pod *Pod) {
	orDefault(&pod.Metadata.Namespace, "default")
	orDefault(&pod.Spec.RestartPolicy, "Always")
	orDefault(&pod.Spec.DNSPolicy, "ClusterFirst")
	if pod.Spec.SecurityContext == nil {
		pod.Spec.SecurityContext = &PodSecurity{}
	}
	for _, list := range [][]Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if c.SecurityContext == nil {
				c.SecurityContext = &ContainerSecurity{}
			}
			if c.ImagePullPolicy == "" {
				c.ImagePullPolicy = "IfNotPresent"
				if _, tag, ok := strings.Cut(path.Base(c.Image), ":"); !ok && !strings.Contains(c.Image, "@") || tag == "latest" {
					c.ImagePullPolicy = "Always"
				}
			}
			for j := range c.Ports {
				orDefault(&c.Ports[j].Protocol, "TCP")
				if pod.Spec.HostNetwork {
					c.Ports[j].HostPort = c.Ports[j].ContainerPort
				}
			}
			defaultRequests(&c.Resources)
		}
	}
}

func orDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// defaultRequests lets a limit stand for the request that was not given.
func defaultRequests(r *Resources) {
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			if r.Requests == nil {
				r.Requests = map[string]Quantity{}
			}
			r.Requests[name] = limit
		}
	}
}

var (
	label     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	identity  = regexp.MustCompile(`^[-A-Za-z0-9]{1,64}$`)
)

// checker collects what is wrong, each by its path.
type checker struct{ problems []error }

func (c *checker) refuse(path, format string, args ...any) {
	c.problems = append(c.problems, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// oneOf takes an empty value too: the default is filled in, or there is none.
func (c *checker) oneOf(path, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		c.refuse(path, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func validate(pod *Pod) []error {
	c := &checker{}
	meta, spec := pod.Metadata, pod.Spec
	if len(meta.Name) > 253 || !subdomain.MatchString(meta.Name) {
		c.refuse("metadata.name", "%q is not a name: lower case letters, digits, dashes and dots", meta.Name)
	}
	if !label.MatchString(meta.Namespace) {
		c.refuse("metadata.namespace", "%q is not a name: lower case letters, digits and dashes", meta.Namespace)
	}
	if meta.UID != "" && !identity.MatchString(meta.UID) {
		c.refuse("metadata.uid", "%q: up to 64 letters, digits and dashes", meta.UID)
	}
	c.oneOf("spec.restartPolicy", spec.RestartPolicy, "Always", "OnFailure", "Never")
	c.oneOf("spec.dnsPolicy", spec.DNSPolicy, "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
	if spec.DNSPolicy == "None" && (spec.DNSConfig == nil || len(spec.DNSConfig.Nameservers) == 0) {
		c.refuse("spec.dnsConfig.nameservers", "dnsPolicy None needs at least one")
	}
	if spec.Hostname != "" && !label.MatchString(spec.Hostname) {
		c.refuse("spec.hostname", "%q is not a name of at most 63 lower case letters, digits and dashes", spec.Hostname)
	}
	if spec.HostPID && spec.ShareProcessNamespace {
		c.refuse("spec.shareProcessNamespace", "cannot be with hostPID")
	}
	if len(spec.Containers) == 0 {
		c.refuse("spec.containers", "a pod has at least one container")
	}
	c.oneOf("spec.securityContext.supplementalGroupsPolicy", spec.SecurityContext.SupplementalGroupsPolicy, "Merge", "Strict")
	c.profile("spec.securityContext.seccompProfile", spec.SecurityContext.SeccompProfile)
	volumes := c.volumes(spec.Volumes)
	names := map[string]bool{}
	for _, list := range []struct {
		path       string
		containers []Container
	}{{"spec.initContainers", spec.InitContainers}, {"spec.containers", spec.Containers}} {
		for i := range list.containers {
			at := fmt.Sprintf("%s[%d]", list.path, i)
			container := &list.containers[i]
			if names[container.Name] {
				c.refuse(at+".name", "%q is there twice", container.Name)
			}
			names[container.Name] = true
			c.container(at, container, volumes)
			if list.path == "spec.initContainers" {
				c.oneOf(at+".restartPolicy", container.RestartPolicy, "Always")
			} else if container.RestartPolicy != "" {
				c.refuse(at+".restartPolicy", "not carried out for containers, only for init containers")
			}
		}
	}
	return c.problems
}

func (c *checker) volumes(volumes []Volume) map[string]bool {
	names := map[string]bool{}
	for i, v := range volumes {
		at := fmt.Sprintf("spec.volumes[%d]", i)
		switch {
		case !label.MatchString(v.Name):
			c.refuse(at+".name", "%q is not a name", v.Name)
		case names[v.Name]:
			c.refuse(at+".name", "%q is there twice", v.Name)
		}
		names[v.Name] = true
		switch {
		case v.HostPath != nil && v.EmptyDir != nil:
			c.refuse(at, "both hostPath and emptyDir")
		case v.HostPath != nil:
			if !path.IsAbs(v.HostPath.Path) || slices.Contains(strings.Split(v.HostPath.Path, "/"), "..") {
				c.refuse(at+".hostPath.path", "%q: an absolute path without .. is wanted", v.HostPath.Path)
			}
			c.oneOf(at+".hostPath.type", v.HostPath.Type, "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
		case v.EmptyDir == nil:
			c.refuse(at, "neither hostPath nor emptyDir")
		}
	}
	return names
}

func (c *checker) container(at string, container *Container, volumes map[string]bool) {
	if !label.MatchString(container.Name) {
		c.refuse(at+".name", "%q is not a name of at most 63 lower case letters, digits and dashes", container.Name)
	}
	if container.Image == "" {
		c.refuse(at+".image", "missing")
	}
	c.oneOf(at+".imagePullPolicy", container.ImagePullPolicy, "Always", "IfNotPresent", "Never")
	for i, e := range container.Env {
		where := fmt.Sprintf("%s.env[%d]", at, i)
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") {
			c.refuse(where+".name", "%q is not a name of a variable", e.Name)
		}
		if e.ValueFrom != nil {
			c.fieldRef(where, e)
		}
	}
	for i, p := range container.Ports {
		c.port(fmt.Sprintf("%s.ports[%d]", at, i), p)
	}
	for i, m := range container.VolumeMounts {
		c.mount(fmt.Sprintf("%s.volumeMounts[%d]", at, i), m, volumes)
	}
	c.resources(at+".resources.limits", container.Resources.Limits, nil)
	c.resources(at+".resources.requests", container.Resources.Requests, container.Resources.Limits)
	c.oneOf(at+".securityContext.procMount", container.SecurityContext.ProcMount, "Default", "Unmasked")
	c.profile(at+".securityContext.seccompProfile", container.SecurityContext.SeccompProfile)
}

func (c *checker) fieldRef(at string, e EnvVar) {
	ref := e.ValueFrom.FieldRef
	switch {
	case ref == nil:
		c.refuse(at+".valueFrom", "only fieldRef is carried out")
	case e.Value != "":
		c.refuse(at, "both value and valueFrom")
	default:
		if _, ok := fieldValue(&Pod{}, Facts{}, ref.FieldPath); !ok {
			c.refuse(at+".valueFrom.fieldRef.fieldPath", "%q is not one of %s", ref.FieldPath, strings.Join(fieldPaths, ", "))
		}
	}
}

func (c *checker) port(at string, p Port) {
	c.oneOf(at+".protocol", p.Protocol, "TCP", "UDP", "SCTP")
	if p.ContainerPort < 1 || p.ContainerPort > 65535 {
		c.refuse(at+".containerPort", "%d is not a port", p.ContainerPort)
	}
	if p.HostPort < 0 || p.HostPort > 65535 {
		c.refuse(at+".hostPort", "%d is not a port", p.HostPort)
	}
	if p.HostIP != "" {
		if _, err := netip.ParseAddr(p.HostIP); err != nil {
			c.refuse(at+".hostIP", "%q is not an address", p.HostIP)
		}
	}
}

func (c *checker) mount(at string, m VolumeMount, volumes map[string]bool) {
	if !volumes[m.Name] {
		c.refuse(at+".name", "there is no volume %q", m.Name)
	}
	if !path.IsAbs(m.MountPath) {
		c.refuse(at+".mountPath", "%q: an absolute path is wanted", m.MountPath)
	}
	if path.IsAbs(m.SubPath) || slices.Contains(strings.Split(m.SubPath, "/"), "..") {
		c.refuse(at+".subPath", "%q: a path inside the volume, without .., is wanted", m.SubPath)
	}
	c.oneOf(at+".mountPropagation", m.MountPropagation, "None", "HostToContainer", "Bidirectional")
	c.oneOf(at+".recursiveReadOnly", m.RecursiveReadOnly, "Disabled", "Enabled")
	if m.RecursiveReadOnly == "Enabled" && !m.ReadOnly {
		c.refuse(at+".recursiveReadOnly", "Enabled needs readOnly: true")
	}
}

// resources checks one list; what stands in said with the same value has been refused already, because a limit is also the default
// of its request.
func (c *checker) resources(at string, list, said map[string]Quantity) {
	for _, name := range sortedKeys(list) {
		if q, ok := said[name]; ok && q == list[name] {
			continue
		}
		if name != "cpu" && name != "memory" && !strings.HasPrefix(name, "hugepages-") {
			c.refuse(at+"."+name, "not a resource that fermata limits: cpu, memory, hugepages-<size>")
		}
		if wrong := list[name].wrong; wrong != "" {
			c.refuse(at+"."+name, "%s", wrong)
		}
	}
}

func (c *checker) profile(at string, p *Profile) {
	if p == nil {
		return
	}
	c.oneOf(at+".type", p.Type, "RuntimeDefault", "Unconfined", "Localhost")
	switch {
	case p.Type == "":
		c.refuse(at+".type", "missing")
	case p.Type == "Localhost" && !path.IsAbs(p.LocalhostProfile):
		c.refuse(at+".localhostProfile", "%q: an absolute path is wanted", p.LocalhostProfile)
	case p.Type != "Localhost" && p.LocalhostProfile != "":
		c.refuse(at+".localhostProfile", "only with type Localhost")
	}
}
