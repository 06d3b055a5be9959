package cgroup

import (
	"fmt"
	"strconv"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// throttle is one kind of ceiling on a device: its file on v1 and its key in io.max on v2.
type throttle struct {
	file, key string
	of        func(*specs.LinuxBlockIO) []specs.LinuxThrottleDevice
}

var throttles = []throttle{
	{"blkio.throttle.read_bps_device", "rbps", func(b *specs.LinuxBlockIO) []specs.LinuxThrottleDevice { return b.ThrottleReadBpsDevice }},
	{"blkio.throttle.write_bps_device", "wbps", func(b *specs.LinuxBlockIO) []specs.LinuxThrottleDevice { return b.ThrottleWriteBpsDevice }},
	{"blkio.throttle.read_iops_device", "riops", func(b *specs.LinuxBlockIO) []specs.LinuxThrottleDevice { return b.ThrottleReadIOPSDevice }},
	{"blkio.throttle.write_iops_device", "wiops", func(b *specs.LinuxBlockIO) []specs.LinuxThrottleDevice { return b.ThrottleWriteIOPSDevice }},
}

// blockIO converts throttles and weights. Weights of v1 (10…1000) go to BFQ on both, which understands 1…1000; leaf weights died with CFQ
// (Linux 5.0) and are refused.
func (p *plan) blockIO(b *specs.LinuxBlockIO) {
	v2 := p.v2("io")
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		p.bad(errs.Unimplemented, "block I/O leaf weight: the kernel has none since Linux 5.0")
	}
	if b.Weight != nil && *b.Weight != 0 {
		p.ioWeight(v2, strconv.Itoa(int(*b.Weight)))
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil && *d.Weight != 0 {
			p.ioWeight(v2, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
	}
	for _, t := range throttles {
		for _, d := range t.of(b) {
			switch {
			case !v2:
				p.set("blkio", t.file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
			case d.Rate == 0: // 0 is none on v1, and would be a full stop on v2
				p.set("io", "io.max", fmt.Sprintf("%d:%d %s=max", d.Major, d.Minor, t.key))
			default:
				p.set("io", "io.max", fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, t.key, d.Rate))
			}
		}
	}
}

func (p *plan) ioWeight(v2 bool, value string) {
	if v2 {
		p.set("io", "io.bfq.weight", value)
	} else {
		p.set("blkio", "blkio.bfq.weight", value)
	}
}
