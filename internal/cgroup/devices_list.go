package cgroup

import (
	"fmt"
	"strconv"
	"strings"
)

// listDevices brings a v1 group's device list to r with the fewest writes. What both the old and the new rules allow stays allowed throughout,
// unless the old default was to allow: v1 cannot tell its exceptions, so it is started over.
func (h *hierarchy) listDevices(rel string, r *deviceRules) error {
	now, err := h.deviceList(rel)
	if err != nil {
		return err
	}
	if now.all() && r.all() {
		return nil
	}
	if now.allow || r.allow {
		if err := h.write(rel, deviceFile(r.allow), "a"); err != nil {
			return err
		}
		now = &deviceRules{allow: r.allow}
	}
	if err := h.writeDevices(rel, deviceFile(!r.allow), r, now); err != nil {
		return err
	}
	return h.writeDevices(rel, deviceFile(r.allow), now, r)
}

func deviceFile(allow bool) string {
	if allow {
		return "devices.allow"
	}
	return "devices.deny"
}

// writeDevices writes what one set of exceptions has and another lacks.
func (h *hierarchy) writeDevices(rel, file string, has, lacks *deviceRules) error {
	for _, d := range has.sorted() {
		a := has.but[d] &^ lacks.but[d]
		if a == 0 {
			continue
		}
		if err := h.write(rel, file, d.String()+" "+a.String()); err != nil {
			return fmt.Errorf("%v %v: %w", d, a, err)
		}
	}
	return nil
}

// deviceList reads devices.list. In it, "a *:* rwm" stands for the default to allow, whatever the exceptions.
func (h *hierarchy) deviceList(rel string) (*deviceRules, error) {
	text, err := h.read(rel, "devices.list")
	if err != nil {
		return nil, err
	}
	r := &deviceRules{but: map[device]access{}}
	for line := range strings.Lines(text) {
		fields := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == ':' || c == '\n' })
		if len(fields) != 4 {
			return nil, fmt.Errorf("read devices.list: line %q", line)
		}
		if fields[0] == "a" {
			return &deviceRules{allow: true}, nil
		}
		d := device{kind: fields[0][0], major: wildcard, minor: wildcard}
		if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			d.major = n
		}
		if n, err := strconv.ParseInt(fields[2], 10, 64); err == nil {
			d.minor = n
		}
		for letter, bit := range map[string]access{"r": read, "w": write, "m": mknod} {
			if strings.Contains(fields[3], letter) {
				r.but[d] |= bit
			}
		}
	}
	return r, nil
}
