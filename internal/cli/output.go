package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// table prints rows as kubectl does: capital headings, columns by spaces, three between.
type table struct {
	heads []string
	rows  [][]string
}

func newTable(heads ...string) *table { return &table{heads: heads} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	widths := make([]int, len(t.heads))
	all := append([][]string{t.heads}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+3))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// structured prints a value as --output asks and reports whether it asks for a structure at all; fallback is the format when the
// flag is not given ("" = none).
func (s *session) structured(value any, fallback string) (bool, error) {
	format := s.output
	if format == "" {
		format = fallback
	}
	if format != "json" && format != "yaml" {
		return false, nil
	}
	text, err := toJSON(value)
	if err != nil {
		return true, err
	}
	if format == "yaml" {
		if text, err = yaml.JSONToYAML(text); err != nil {
			return true, err
		}
	}
	_, err = s.Stdout.Write(text)
	return true, err
}

// toJSON prints messages by their proto names' JSON form and everything else as encoding/json does, indented.
func toJSON(value any) ([]byte, error) {
	var text []byte
	var err error
	if m, ok := value.(proto.Message); ok {
		text, err = protojson.MarshalOptions{EmitUnpopulated: false}.Marshal(m)
	} else {
		text, err = json.Marshal(value)
	}
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil { // protojson varies its own spaces on purpose
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// age is the time since t as kubectl shows it: 42s, 3m12s, 5h, 2d.
func age(now, t time.Time) string {
	d := now.Sub(t)
	switch s := int(d.Seconds()); {
	case s < 0:
		return "0s"
	case s < 120:
		return fmt.Sprintf("%ds", s)
	case s < 600:
		return withRest(s/60, "m", s%60, "s")
	case s < 3*3600:
		return fmt.Sprintf("%dm", s/60)
	case s < 8*3600:
		return withRest(s/3600, "h", s/60%60, "m")
	case s < 48*3600:
		return fmt.Sprintf("%dh", s/3600)
	case s < 8*86400:
		return withRest(s/86400, "d", s/3600%24, "h")
	default:
		return fmt.Sprintf("%dd", s/86400)
	}
}

func withRest(n int, unit string, rest int, restUnit string) string {
	if rest == 0 {
		return fmt.Sprintf("%d%s", n, unit)
	}
	return fmt.Sprintf("%d%s%d%s", n, unit, rest, restUnit)
}

// bytesText is a size with three digits and a decimal unit, as image sizes are given everywhere.
func bytesText(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	value, unit := float64(n)/1000, 0
	for value >= 999.5 && unit < len(units)-1 {
		value, unit = value/1000, unit+1
	}
	if value < 9.995 {
		return fmt.Sprintf("%.2f%cB", value, units[unit])
	}
	if value < 99.95 {
		return fmt.Sprintf("%.1f%cB", value, units[unit])
	}
	return fmt.Sprintf("%.0f%cB", value, units[unit])
}

// short cuts an ID to what is shown in a table; a digest's algorithm goes.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 13)]
}
