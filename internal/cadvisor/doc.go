// Package cadvisor answers what the cAdvisor inside the kubelet (and one that runs by itself) asks containerd: whose a control group is. cAdvisor
// knows two runtimes, by the paths of their sockets; without an answer it counts a pod's groups but cannot label them, nor see the pod's
// network (docs/decisions/0012).
//
// Three calls of containerd's API are answered, by what they carry on the wire: Containers/Get, Tasks/Get and Version/Version, from
// github.com/containerd/containerd/api v1.12. No other is, and none changes anything.
//
// What belongs elsewhere: the figures themselves, which cAdvisor reads from the kernel, and the CRI's own (packages stats and cri); on which
// socket this is served (package daemon).
package cadvisor
