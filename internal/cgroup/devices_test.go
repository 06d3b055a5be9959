package cgroup

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// rules reads "allow c 1:3 rwm" lines, a number of which may be *.
func rules(t testing.TB, text string) []specs.LinuxDeviceCgroup {
	t.Helper()
	var list []specs.LinuxDeviceCgroup
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		number := func(s string) *int64 {
			if s == "*" {
				return nil
			}
			var n int64
			if _, err := fmt.Sscan(s, &n); err != nil {
				t.Fatal(err)
			}
			return &n
		}
		major, minor, _ := strings.Cut(f[2], ":")
		r := specs.LinuxDeviceCgroup{Allow: f[0] == "allow", Type: f[1], Major: number(major), Minor: number(minor)}
		if len(f) > 3 {
			r.Access = f[3]
		}
		list = append(list, r)
	}
	return list
}

func (r *deviceRules) String() string {
	if r == nil {
		return "unchanged"
	}
	s := fmt.Sprintf("%v", map[bool]string{true: "allow", false: "deny"}[r.allow])
	for _, d := range r.sorted() {
		s += fmt.Sprintf(" but %v %v", d, r.but[d])
	}
	return s
}

func TestDeviceRulesFold(t *testing.T) {
	for _, c := range []struct{ name, rules, want string }{
		{"no rules change nothing", "", "unchanged"},
		{"what is not denied is allowed", "deny c 1:3 w", "allow but c 1:3 w"},
		{"a container's list", "deny a *:* rwm\nallow c 1:3 rwm\nallow c 136:* rwm\nallow b *:* m", "deny but b *:* m but c 1:3 rwm but c 136:* rwm"},
		{"a privileged one's", "allow a *:* rwm", "allow"},
		{"the last word on everything wins", "allow c 1:3 r\ndeny a *:*\nallow a *:* rwm", "allow"},
		{"accesses add up", "deny a *:*\nallow c 1:3 r\nallow c 1:3 w", "deny but c 1:3 rw"},
		{"an exception taken back", "deny a *:*\nallow c 1:3 rwm\ndeny c 1:3 w", "deny but c 1:3 rm"},
		{"taken back altogether", "deny a *:*\nallow c 1:3 rwm\ndeny c 1:3", "deny"},
		{"taken back with others", "deny a *:*\nallow c 1:3 rwm\nallow c 2:3 rwm\ndeny c 1:* rwm", "deny but c 2:3 rwm"},
		{"-1 is any", "deny a -1:-1 rwm\nallow c -1:3 rwm", "deny but c *:3 rwm"},
		{"u is c", "deny a *:*\nallow u 1:3 r", "deny but c 1:3 r"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := normalize(rules(t, c.rules))
			if err != nil || got.String() != c.want {
				t.Errorf("%v, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestDeviceRulesThatAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a hole in a wildcard":       "deny a *:*\nallow c 1:* rwm\ndeny c 1:3 w",
		"a fifo":                     "allow p 1:3 rwm",
		"an unknown type":            "allow x 1:3 rwm",
		"an unknown access":          "allow c 1:3 rwx",
		"nothing allowed":            "allow c 1:3",
		"all devices of one number":  "allow a 1:3 rwm",
		"all devices for one access": "deny a *:* m",
		"a number over 32 bits":      "allow c 4294967296:0 rwm",
		"a negative number":          "allow c -2:0 rwm",
	} {
		if got, err := normalize(rules(t, text)); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// interpret runs a device program as the kernel would; it returns the verdict.
func interpret(t testing.TB, code []byte, kind byte, a access, major, minor uint32) bool {
	t.Helper()
	ctx := [3]uint32{uint32(a)<<16 | programKind[kind], major, minor}
	var reg [11]uint64
	for pc, steps := 0, 0; ; pc, steps = pc+1, steps+1 {
		if pc < 0 || 8*pc >= len(code) || steps > len(code) {
			t.Fatalf("runs out of the program at %d of %d", pc, len(code)/8)
		}
		i := code[8*pc:]
		dst, src := i[1]&0xf, i[1]>>4
		off, imm := int16(binary.LittleEndian.Uint16(i[2:])), binary.LittleEndian.Uint32(i[4:])
		switch i[0] {
		case opLoadWord:
			if src != regScratch || reg[regScratch] != 0 {
				t.Fatalf("loads from register %d", src)
			}
			reg[dst] = uint64(ctx[off/4])
		case opAnd32:
			reg[dst] = uint64(uint32(reg[dst]) & imm)
		case opShift32:
			reg[dst] = uint64(uint32(reg[dst]) >> imm)
		case opCopy32:
			reg[dst] = uint64(uint32(reg[src]))
		case opSet:
			reg[dst] = uint64(int64(int32(imm)))
		case opUnless32:
			if uint32(reg[dst]) != imm {
				pc += int(off)
			}
		case opIf32:
			if uint32(reg[dst]) == imm {
				pc += int(off)
			}
		case opExit:
			return reg[regVerdict] == 1
		default:
			t.Fatalf("opcode %#x at %d", i[0], pc)
		}
	}
}

// permitted is the plain meaning of folded rules.
func permitted(r *deviceRules, kind byte, a access, major, minor uint32) bool {
	for d, has := range r.but {
		if !covers(d, device{kind, int64(major), int64(minor)}) {
			continue
		}
		if r.allow && has&a != 0 {
			return false
		}
		if !r.allow && a&^has == 0 {
			return true
		}
	}
	return r.allow
}

func TestDeviceProgramsMeanTheRules(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	numbers := []int64{wildcard, 0, 1, 3, 255, 1 << 31, 1<<32 - 1}
	for range 400 {
		rules := &deviceRules{allow: r.IntN(2) == 0, but: map[device]access{}}
		for range r.IntN(8) {
			rules.but[device{"bc"[r.IntN(2)], numbers[r.IntN(len(numbers))], numbers[r.IntN(len(numbers))]}] = access(1 + r.IntN(7))
		}
		code := deviceProgram(rules)
		for _, kind := range []byte("bc") {
			for _, major := range numbers[1:] {
				for _, minor := range numbers[1:] {
					for a := access(0); a <= everything; a++ {
						got, want := interpret(t, code, kind, a, uint32(major), uint32(minor)), permitted(rules, kind, a, uint32(major), uint32(minor))
						if got != want {
							t.Fatalf("%v: %c %d:%d %v: %v", rules, kind, major, minor, a, got)
						}
					}
				}
			}
		}
	}
}
