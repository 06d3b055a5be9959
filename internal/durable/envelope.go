package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Newer, embedded in a record, holds the fields of a newer minor version between [Read] and [Write], so that an older program that
// rewrites a record loses nothing of it. It covers the record's own fields, not those of objects within.
type Newer struct {
	version string
	fields  map[string]json.RawMessage
}

func (n *Newer) newer() *Newer { return n }

// keepsNewer is what embedding Newer gives a record.
type keepsNewer interface{ newer() *Newer }

type envelope struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

func encode(kind string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) < 2 || body[0] != '{' {
		return nil, errors.New("not an object")
	}
	head := envelope{Kind: kind, Version: versionOf(v)}
	newer := newerOf(v)
	if newer.version != "" {
		head.Version = newer.version
	}
	b, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	b = b[:len(b)-1]
	for _, name := range slices.Sorted(maps.Keys(newer.fields)) {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		b = append(append(append(append(b, ','), key...), ':'), newer.fields[name]...)
	}
	if len(body) > 2 {
		b = append(b, ',')
	}
	return indent(append(b, body[1:]...))
}

// newerOf returns what v keeps of a newer version, the zero value if nothing.
func newerOf(v any) Newer {
	if k, ok := v.(keepsNewer); ok {
		return *k.newer()
	}
	// A struct passed by value: its copy's address has the method.
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Struct {
		p := reflect.New(rv.Type())
		p.Elem().Set(rv)
		if k, ok := p.Interface().(keepsNewer); ok {
			return *k.newer()
		}
	}
	return Newer{}
}

func decode(b []byte, kind string, v any) error {
	var head envelope
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	if head.Kind != kind {
		return fmt.Errorf("record of kind %q, want %q", head.Kind, kind)
	}
	known := versionOf(v)
	order, err := compare(head.Version, known)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return err
	}
	k, ok := v.(keepsNewer)
	if !ok {
		return nil
	}
	*k.newer() = Newer{}
	if order <= 0 {
		return nil
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	delete(fields, "kind")
	delete(fields, "version")
	for _, name := range fieldNames(reflect.TypeOf(v)) {
		delete(fields, name)
	}
	*k.newer() = Newer{version: head.Version, fields: fields}
	return nil
}

func versionOf(v any) string {
	if r, ok := v.(Versioned); ok {
		return r.RecordVersion()
	}
	return Version
}

// compare returns the difference of two versions' minors; another major is an error.
func compare(found, known string) (int, error) {
	fMajor, fMinor, err := parseVersion(found)
	if err != nil {
		return 0, err
	}
	kMajor, kMinor, err := parseVersion(known)
	if err != nil {
		return 0, err
	}
	if fMajor != kMajor {
		return 0, fmt.Errorf("record of version %s, this program knows %s", found, known)
	}
	return fMinor - kMinor, nil
}

func parseVersion(s string) (major, minor int, err error) {
	a, b, ok := strings.Cut(s, ".")
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("record of version %q, want major.minor", s)
	}
	return int(x), int(y), nil
}

// fieldNames are the JSON names of a struct's fields, those of embedded structs included.
func fieldNames(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, fieldNames(f.Type)...)
		case name == "-" || !f.IsExported():
		case name == "":
			names = append(names, f.Name)
		default:
			names = append(names, name)
		}
	}
	return names
}
