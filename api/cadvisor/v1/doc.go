// Package cadvisorv1 is what the kubelet's cAdvisor asks containerd, made from cadvisor.proto by `make generate`; the server is in package
// cadvisor.
package cadvisorv1
