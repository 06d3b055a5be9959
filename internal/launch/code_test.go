package launch

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// assembled returns the code of one function of stage_*.s as the assembler makes it today, for any architecture.
func assembled(t *testing.T, a Arch, function string) string {
	t.Helper()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	object := filepath.Join(t.TempDir(), "stage.o")
	include := filepath.Join(strings.TrimSpace(string(goroot)), "pkg", "include")
	cmd := exec.Command("go", "tool", "asm", "-p", "fermata/internal/launch", "-I", include, "-o", object, "stage_"+a.String()+".s")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+a.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("assemble: %v\n%s", err, out)
	}
	dump, err := exec.Command("go", "tool", "objdump", "-s", "\\."+function+"$", object).Output()
	if err != nil {
		t.Fatal(err)
	}
	var code []byte
	for _, line := range strings.Split(string(dump), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "stage_") {
			continue
		}
		b, err := hex.DecodeString(fields[2])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if a == ARM64 { // printed as words
			b = binary.LittleEndian.AppendUint32(nil, binary.BigEndian.Uint32(b))
		}
		code = append(code, b...)
	}
	end := map[Arch]string{AMD64: "\xcd\x03", ARM64: "\x00\x00\x20\xd4"}[a] // INT 3, BRK; behind it is padding
	n := bytes.LastIndex(code, []byte(end))
	if n < 0 {
		t.Fatalf("%s of %s does not end as it should: %x", function, a, code)
	}
	return string(code[:n+len(end)])
}

// The shipped bytes are generated: an edit of the assembler source without regenerating would otherwise change nothing.
func TestAssembledCodeIsWhatIsShipped(t *testing.T) {
	var src bytes.Buffer
	fmt.Fprint(&src, "// Code generated from stage_*.s by go test -run Assembled -update; DO NOT EDIT.\n\npackage launch\n\nvar codeOf = [arches]machineCode{\n")
	for a := range arches {
		stage, pause := assembled(t, a, "stageCode"), assembled(t, a, "pauseCode")
		if !*update && (codeOf[a].stage != stage || codeOf[a].pause != pause) {
			t.Errorf("code_generated.go is not what stage_%s.s assembles to; run with -update", a)
		}
		fmt.Fprintf(&src, "%s: {stage: \"\" +\n%s, pause: \"\" +\n%s},\n", strings.ToUpper(a.String()), literal(stage), literal(pause))
	}
	fmt.Fprint(&src, "}\n")
	if *update {
		out, err := format.Source(src.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("code_generated.go", out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func literal(code string) string {
	var lines []string
	for len(code) > 0 {
		n := min(16, len(code))
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "\\x%02x", code[i])
		}
		lines = append(lines, `"`+b.String()+`"`)
		code = code[n:]
	}
	return strings.Join(lines, " +\n")
}
