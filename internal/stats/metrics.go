package stats

import (
	"maps"
	"slices"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
)

// Figures are all that metrics are made of. Of a pod only the interfaces are set, of a container all else.
type Figures struct {
	Now, Started time.Time
	Group        cgroup.Stats
	Processes    Processes
	// Layer is the writable layer, on Filesystem.
	Layer      Usage
	Filesystem Filesystem
	Interfaces []Interface
}

// Subject is what a metric is told of.
type Subject uint8

// Pods have the interfaces, containers the rest.
const (
	OfPod Subject = iota + 1
	OfContainer
)

// Labels are the first label values of every metric of a subject, named as cAdvisor names them, whose metrics these replace (KEP-2371).
type Labels struct {
	// Container is the container's name, "POD" of a pod.
	Container string
	// ID is the path of the control group, Name the container's or sandbox's ID.
	ID, Image, Name, Namespace, Pod string
}

var baseKeys = []string{"container", "id", "image", "name", "namespace", "pod"}

func (l *Labels) values() []string {
	return []string{l.Container, l.ID, l.Image, l.Name, l.Namespace, l.Pod}
}

// sample is one value, with the labels that are the metric's own.
type sample struct {
	labels []string
	value  uint64
}

// metric is one line of the table below.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	of         Subject
	// keys are the metric's own labels, after those all have.
	keys    []string
	samples func(*Figures) []sample
}

// Descriptors describes every metric there is, in the table's order. Their names never depend on the machine.
func Descriptors() []*runtimeapi.MetricDescriptor {
	list := make([]*runtimeapi.MetricDescriptor, len(table))
	for i, m := range table {
		list[i] = &runtimeapi.MetricDescriptor{Name: prefix + m.name, Help: m.help, LabelKeys: slices.Concat(baseKeys, m.keys)}
	}
	return list
}

// Metrics gives the metrics of a subject. One that the machine has no figures for has no sample.
func Metrics(of Subject, l *Labels, f *Figures) []*runtimeapi.Metric {
	var list []*runtimeapi.Metric
	base := l.values()
	for _, m := range table {
		if m.of != of {
			continue
		}
		for _, s := range m.samples(f) {
			list = append(list, &runtimeapi.Metric{
				Name: prefix + m.name, MetricType: m.kind, LabelValues: slices.Concat(base, s.labels), Value: value(s.value),
			})
		}
	}
	return list
}

const (
	prefix  = "container_"
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// one is a metric that always has one value, without labels of its own.
func one(figure func(*Figures) uint64) func(*Figures) []sample {
	return func(f *Figures) []sample { return []sample{{value: figure(f)}} }
}

// perInterface has a value for each interface.
func perInterface(figure func(*Interface) uint64) func(*Figures) []sample {
	return func(f *Figures) (all []sample) {
		for i := range f.Interfaces {
			all = append(all, sample{[]string{f.Interfaces[i].Name}, figure(&f.Interfaces[i])})
		}
		return all
	}
}

// devices are those the group's traffic is counted on. A group that has not touched any shows the one its writable layer lies on, untouched.
func (f *Figures) devices() []cgroup.IO {
	if len(f.Group.IO) > 0 {
		return f.Group.IO
	}
	return []cgroup.IO{{Major: f.Filesystem.Major, Minor: f.Filesystem.Minor}}
}

func (f *Figures) device(d *cgroup.IO) string {
	if d.Major == f.Filesystem.Major && d.Minor == f.Filesystem.Minor {
		return f.Filesystem.Device
	}
	return DeviceName(d.Major, d.Minor)
}

// perDevice has a value for each block device.
func perDevice(figure func(*cgroup.IO) uint64) func(*Figures) []sample {
	return func(f *Figures) (all []sample) {
		for _, d := range f.devices() {
			all = append(all, sample{[]string{f.device(&d)}, figure(&d)})
		}
		return all
	}
}

func deviceUsage(f *Figures) (all []sample) {
	for _, d := range f.devices() {
		name, major, minor := f.device(&d), strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
		all = append(all, sample{[]string{name, major, minor, "Read"}, d.ReadBytes}, sample{[]string{name, major, minor, "Write"}, d.WriteBytes})
	}
	return all
}

// onFilesystem is a figure of the writable layer's file system.
func onFilesystem(figure func(*Figures) uint64) func(*Figures) []sample {
	return func(f *Figures) []sample { return []sample{{[]string{f.Filesystem.Device}, figure(f)}} }
}

// perPageSize has a value for each size of huge pages.
func perPageSize(figure func(cgroup.Hugetlb) uint64) func(*Figures) []sample {
	return func(f *Figures) (all []sample) {
		for _, size := range slices.Sorted(maps.Keys(f.Group.Hugetlb)) {
			all = append(all, sample{[]string{size}, figure(f.Group.Hugetlb[size])})
		}
		return all
	}
}

// waited is the time tasks waited, in whole seconds: the CRI's metrics are whole numbers.
func waited(resource func(*cgroup.Stats) *cgroup.Pressure, line func(*cgroup.Pressure) cgroup.PressureLine) func(*Figures) []sample {
	return func(f *Figures) []sample {
		p := resource(&f.Group)
		if p == nil {
			return nil
		}
		return []sample{{value: seconds(line(p).Total)}}
	}
}

func some(p *cgroup.Pressure) cgroup.PressureLine { return p.Some }
func full(p *cgroup.Pressure) cgroup.PressureLine { return p.Full }
func onCPU(s *cgroup.Stats) *cgroup.Pressure      { return s.CPU.Pressure }
func onMemory(s *cgroup.Stats) *cgroup.Pressure   { return s.Memory.Pressure }
func onIO(s *cgroup.Stats) *cgroup.Pressure       { return s.IOPressure }
func seconds(nanoseconds uint64) uint64           { return nanoseconds / uint64(time.Second) }

// failures are page faults. Those of groups below (execs) are the container's own: both scopes say the same.
func failures(f *Figures) (all []sample) {
	m := &f.Group.Memory
	for _, scope := range []string{"container", "hierarchy"} {
		all = append(all, sample{[]string{"pgfault", scope}, m.PageFaults}, sample{[]string{"pgmajfault", scope}, m.MajorPageFaults})
	}
	return all
}

func quota(f *Figures) []sample {
	if f.Group.CPU.Quota <= 0 { // no ceiling
		return nil
	}
	return []sample{{value: uint64(f.Group.CPU.Quota)}}
}

func softLimits(f *Figures) []sample {
	if f.Processes.OpenFiles == nil {
		return nil
	}
	return []sample{{[]string{"max_open_files"}, *f.Processes.OpenFiles}}
}

func swapLimit(f *Figures) uint64 {
	if f.Group.Swap.Limit == nil {
		return 0
	}
	return *f.Group.Swap.Limit
}
