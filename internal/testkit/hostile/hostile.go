// Package hostile makes requests that no good client sends, out of the descriptors of their messages: members missing, empty, too big, unknown,
// at odds with each other. What a field can be given is chosen by its kind; where a value would do harm to the machine, or means something only
// on it (paths, IDs), the test says by the field's name what may be tried.
//
// The same seed makes the same requests.
package hostile

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Maker makes requests.
type Maker struct {
	rand *rand.Rand
	// strings are what a string field may be given, by its path's last names; see [Maker.pool].
	strings map[string][]string
}

// New makes a maker. strings are the values to try for fields, by name ("host_path") or by message and name ("Device.host_path"); other
// string fields get [Strings].
func New(seed, number uint64, strings map[string][]string) *Maker {
	return &Maker{rand: rand.New(rand.NewPCG(seed, number)), strings: strings}
}

// Strings are tried for every string field that nothing else is said of. None is an absolute path of something, nor begins an ID.
var Strings = []string{
	"", "x", " ", " x ", "x\x00y", "x\ny", "x\r\ny", "..", "../..", "x/../../y", ".", "-", "--x", "%s%n%d", "$(x)", "\x1b[31mx", "💥", "x=y", "X_Y",
	"9", "-1", "99999999999999999999", "{}", "null", "x:y", "x@sha256:z", "zzzz" + strings.Repeat("z", 60),
	strings.Repeat("z", 300), strings.Repeat("z/", 3000), strings.Repeat("z", 5000), strings.Repeat("z", 200_000),
}

// Number is a random number below n.
func (g *Maker) Number(n int) int { return g.rand.IntN(n) }

// Break changes members of a message at random, several with contradictions between them, and returns what was done to which.
func (g *Maker) Break(m proto.Message) []Change {
	times := 1
	switch n := g.rand.IntN(100); {
	case n < 10:
		times = 3 + g.rand.IntN(3)
	case n < 35:
		times = 2
	}
	var done []Change
	for range times {
		done = append(done, g.breakOne(m.ProtoReflect()))
	}
	return done
}

// Change is what was done to a member.
type Change struct {
	// Path leads to the member: field names, without the places in lists and maps.
	Path []string
	What string
}

// String is the change on a line.
func (c Change) String() string { return strings.Join(c.Path, ".") + ": " + c.What }

// plain makes one of the ways in which names are written: cpuset_cpus is the file cpuset.cpus.
var plain = strings.NewReplacer("_", "", ".", "", " ", "")

// Names reports whether a text names the member or what it is part of.
func (c Change) Names(text string) bool {
	for _, name := range c.Path[max(0, len(c.Path)-2):] {
		if strings.Contains(plain.Replace(strings.ToLower(text)), plain.Replace(strings.ToLower(name))) {
			return true
		}
	}
	// What was made of random or empty members may be told by any of them.
	return len(c.Path) == 0 || strings.Contains(c.What, "random") || strings.HasSuffix(c.What, "empty") || strings.HasSuffix(c.What, "empty ones")
}

// site is a place where a message can be broken.
type site struct {
	path []string
	// reach puts messages on the way there that are missing.
	reach func()
	m     protoreflect.Message
	f     protoreflect.FieldDescriptor // nil: unknown fields of m
}

// absent is how deep it is looked into messages that are missing.
const absent = 3

// sites are all places in a message, and in those that are missing down to a depth.
func sites(m protoreflect.Message, at site, depth int) []site {
	all := []site{{at.path, at.reach, m, nil}}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		here := site{append(at.path[:len(at.path):len(at.path)], string(f.Name())), at.reach, m, f}
		all = append(all, here)
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for j := range m.Get(f).List().Len() {
				all = append(all, sites(m.Get(f).List().Get(j).Message(), here, depth)...)
			}
		case m.Has(f):
			all = append(all, sites(m.Get(f).Message(), here, depth)...)
		case depth > 0:
			made := m.NewField(f)
			here.reach = func() { at.reach(); m.Set(f, made) }
			all = append(all, sites(made.Message(), here, depth-1)...)
		}
	}
	return all
}

// breakOne changes a member at random, each as often as any other.
func (g *Maker) breakOne(m protoreflect.Message) Change {
	all := sites(m, site{reach: func() {}}, absent)
	s := all[g.rand.IntN(len(all))]
	s.reach()
	switch {
	case s.f == nil:
		s.m.SetUnknown(g.unknown())
		return Change{s.path, "unknown fields"}
	case s.f.IsList():
		return Change{s.path, g.breakList(s.m.Mutable(s.f).List(), s.f)}
	case s.f.IsMap():
		return Change{s.path, g.breakMap(s.m, s.f)}
	case s.f.Message() != nil:
		return Change{s.path, g.breakMessage(s.m, s.f)}
	}
	v := g.scalar(s.f)
	s.m.Set(s.f, v)
	return Change{s.path, fmt.Sprintf("%.100q", v)}
}

func (g *Maker) breakMessage(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	switch g.rand.IntN(3) {
	case 0:
		m.Clear(f)
		return "missing"
	case 1:
		m.Set(f, m.NewField(f))
		return "empty"
	}
	m.Set(f, m.NewField(f))
	g.Fill(m.Mutable(f).Message(), 2)
	return "random"
}

// Fill gives every second member of a message a random value.
func (g *Maker) Fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if g.rand.IntN(2) == 0 {
			continue
		}
		switch {
		case f.IsList():
			g.breakList(m.Mutable(f).List(), f)
		case f.IsMap():
			g.breakMap(m, f)
		case f.Message() != nil:
			if depth > 0 {
				g.Fill(m.Mutable(f).Message(), depth-1)
			}
		default:
			m.Set(f, g.scalar(f))
		}
	}
}

const (
	// many is how many members make a list or a map an oversized one.
	many = 3000
	// messageSize bounds what one list or map takes, in bytes: about the most that anybody would take of one.
	messageSize = 4 << 20
)

func (g *Maker) breakList(list protoreflect.List, f protoreflect.FieldDescriptor) string {
	switch n := g.rand.IntN(12); {
	case n == 0:
		list.Truncate(0)
		return "missing"
	case n == 1 && f.Message() == nil:
		v := g.scalar(f)
		times := many
		if f.Kind() == protoreflect.StringKind { // not more than a message may be
			times = min(many, messageSize/(len(v.String())+1))
		}
		for range times {
			list.Append(v)
		}
		return fmt.Sprintf("%d times %.60q", times, v)
	case n == 1:
		for range many {
			list.Append(list.NewElement())
		}
		return fmt.Sprintf("%d empty ones", many)
	case n < 4 && list.Len() > 0:
		list.Append(list.Get(g.rand.IntN(list.Len())))
		return "one twice"
	case f.Message() == nil:
		v := g.scalar(f)
		if n < 8 {
			list.Truncate(0)
		}
		list.Append(v)
		return fmt.Sprintf("with %.100q", v)
	}
	e := list.NewElement()
	g.Fill(e.Message(), 1)
	list.Append(e)
	return "with a random one"
}

func (g *Maker) breakMap(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	entries := m.Mutable(f).Map()
	value := func() protoreflect.Value {
		if f.MapValue().Message() != nil {
			v := entries.NewValue()
			g.Fill(v.Message(), 1)
			return v
		}
		return g.scalar(f.MapValue())
	}
	switch g.rand.IntN(8) {
	case 0:
		m.Clear(f)
		return "missing"
	case 1:
		v := value()
		for i := range many {
			if f.MapValue().Kind() == protoreflect.StringKind && i*len(v.String()) > messageSize {
				break
			}
			entries.Set(protoreflect.ValueOfString(fmt.Sprintf("x%d", i)).MapKey(), v)
		}
		return fmt.Sprintf("%d entries", many)
	}
	key, v := g.choose(f.MapKey(), string(f.Name())), value()
	entries.Set(protoreflect.ValueOfString(key).MapKey(), v)
	return fmt.Sprintf("with %.60q: %.60q", key, v)
}

// scalar is a value for a field that is no message; for a list, for one of its members.
func (g *Maker) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.rand.IntN(2) == 0)
	case protoreflect.EnumKind:
		if g.rand.IntN(2) == 0 {
			return protoreflect.ValueOfEnum([]protoreflect.EnumNumber{-1, 99, math.MaxInt32, math.MinInt32}[g.rand.IntN(4)])
		}
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(g.rand.IntN(f.Enum().Values().Len())).Number())
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.choose(f, string(f.Name())))
	case protoreflect.BytesKind:
		b := make([]byte, []int{0, 1, 10, 1000, 200_000}[g.rand.IntN(5)])
		for i := range b {
			b[i] = byte(g.rand.Uint32())
		}
		return protoreflect.ValueOfBytes(b)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(math.NaN()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(math.NaN())
	}
	n := []int64{0, 1, -1, 2, 7, 1000, 4096, 65535, 65536, math.MaxInt32, math.MinInt32, math.MaxUint32, math.MaxInt64, math.MinInt64, g.rand.Int64()}[g.rand.IntN(15)]
	switch f.Kind() {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	}
	return protoreflect.ValueOfInt64(n)
}

// choose is a string for a field; those said of the message and the field go before those of the field's name alone. The key of a map is asked
// for by the map's name.
func (g *Maker) choose(f protoreflect.FieldDescriptor, name string) string {
	pool, ok := g.strings[string(f.Parent().Name())+"."+name]
	if !ok {
		pool, ok = g.strings[name]
	}
	if !ok {
		pool = Strings
	}
	return pool[g.rand.IntN(len(pool))]
}

// unknown are fields that no message has, as a newer client would send.
func (g *Maker) unknown() []byte {
	b := protowire.AppendTag(nil, 5000, protowire.BytesType)
	b = protowire.AppendBytes(b, make([]byte, g.rand.IntN(1000)))
	b = protowire.AppendTag(b, 5001, protowire.VarintType)
	return protowire.AppendVarint(b, g.rand.Uint64())
}
