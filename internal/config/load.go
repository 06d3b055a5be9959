package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"fermata/internal/errs"
	"fermata/internal/suggest"
)

// ErrHelp is what [Load] returns for --help; the caller prints [Usage].
var ErrHelp = pflag.ErrHelp

// origin says where a value came from, for the message that refuses it.
type origin map[string]string

// Load reads the settings: the table's defaults, then the file, then the flags in args (without the program's name). Every
// refusal is an [errs.InvalidArgument] that names the flag, or the file and line.
func Load(args []string) (*Config, error) {
	flags, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	cfg, from := &Config{}, origin{}
	for _, o := range Options() {
		*o.field(cfg) = o.Default
	}
	if err := readFile(cfg, from, flags); err != nil {
		return nil, err
	}
	for _, o := range Options() {
		if f := flags.Lookup(o.Flag); f.Changed {
			*o.field(cfg) = f.Value.String()
			from[o.Flag] = "--" + o.Flag
		}
	}
	if err := check(cfg, from); err != nil {
		return nil, err
	}
	cfg.from = from
	return cfg, derive(cfg, from)
}

// Value returns an option's value.
func (c *Config) Value(o Option) string { return *o.field(c) }

// From says where an option's value is from: "default", "--flag", or "file:line".
func (c *Config) From(o Option) string {
	if from, ok := c.from[o.Flag]; ok && from != "" {
		return from
	}
	return "default"
}

// Usage returns the flags as --help shows them.
func Usage() string {
	flags := newFlags()
	flags.BoolP("help", "h", false, "explain the command")
	return strings.ReplaceAll(flags.FlagUsages(), "[=true|false]", "             ")
}

// value is a flag's, whose kind is shown in usage.
type value struct {
	text string
	kind Kind
}

func (v *value) String() string     { return v.text }
func (v *value) Set(s string) error { v.text = s; return nil }
func (v *value) Type() string       { return string(v.kind) }

func newFlags() *pflag.FlagSet {
	flags := pflag.NewFlagSet("fermata daemon", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	for _, o := range Options() {
		text := o.Description + " (default " + o.Default + o.Explained + ")"
		flags.Var(&value{o.Default, o.Kind}, o.Flag, text)
		flags.Lookup(o.Flag).DefValue = "" // it is in the text, without quotes
	}
	return flags
}

func parseFlags(args []string) (*pflag.FlagSet, error) {
	flags := newFlags()
	err := flags.Parse(args)
	var unknown *pflag.NotExistError
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil, ErrHelp
	case errors.As(err, &unknown):
		var names []string
		for _, o := range Options() {
			names = append(names, o.Flag)
		}
		return nil, errs.New(errs.InvalidArgument, "flag --%s: unknown%s; `fermata daemon --help` lists them",
			unknown.GetSpecifiedName(), suggest.DidYouMean(unknown.GetSpecifiedName(), names))
	case err != nil:
		return nil, errs.New(errs.InvalidArgument, "flags: %w", err)
	case flags.NArg() > 0:
		return nil, errs.New(errs.InvalidArgument, "argument %q: the daemon takes only flags", flags.Arg(0))
	}
	return flags, nil
}

// readFile lays the file over cfg. A file that was asked for must exist; the default one need not.
func readFile(cfg *Config, from origin, flags *pflag.FlagSet) error {
	path, asked := DefaultFile, flags.Lookup("config").Changed
	if asked {
		path = flags.Lookup("config").Value.String()
	}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !asked:
		return nil
	case err != nil:
		return errs.New(errs.InvalidArgument, "read configuration: %w", err)
	}
	if err := decode(text, path, cfg, from); err != nil {
		return err
	}
	cfg.File = path
	return nil
}

// decode reads text strictly into a struct made from the table, so that the TOML library itself knows every key and its errors
// carry a position.
func decode(text []byte, path string, cfg *Config, from origin) error {
	var fields []reflect.StructField
	var rows []Option
	for _, o := range Options() {
		if !o.FlagOnly {
			rows = append(rows, o)
			fields = append(fields, reflect.StructField{
				Name: fmt.Sprintf("F%d", len(fields)), Type: reflect.TypeFor[*string](),
				Tag: reflect.StructTag(fmt.Sprintf("toml:%q", o.Key())),
			})
		}
	}
	into := reflect.New(reflect.StructOf(fields))
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(into.Interface())
	if err != nil {
		return explain(err, path, rows)
	}
	for i, o := range rows {
		if v, ok := into.Elem().Field(i).Interface().(*string); ok && v != nil {
			*o.field(cfg) = *v
			from[o.Flag] = place(path, text, o.Key())
		}
	}
	return nil
}

// explain turns the TOML library's error into one line: file, line, key and, for an unknown one, the nearest.
func explain(err error, path string, rows []Option) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) && len(missing.Errors) > 0 {
		first := missing.Errors[0]
		line, _ := first.Position()
		key := strings.Join(first.Key(), ".")
		var keys []string
		for _, o := range rows {
			keys = append(keys, o.Key())
		}
		return errs.New(errs.InvalidArgument, "%s:%d: key %q: unknown%s", path, line, key, suggest.DidYouMean(key, keys))
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		if len(wrong.Key()) > 0 {
			return errs.New(errs.InvalidArgument, "%s:%d: key %q: a text in quotes is wanted: %w", path, line, strings.Join(wrong.Key(), "."), err)
		}
		return errs.New(errs.InvalidArgument, "%s:%d: %w", path, line, err)
	}
	return errs.New(errs.InvalidArgument, "%s: %w", path, err)
}

// place finds the line that sets key, for messages about a value that is well-formed TOML and still impossible.
func place(path string, text []byte, key string) string {
	for i, line := range strings.Split(string(text), "\n") {
		name, _, ok := strings.Cut(line, "=")
		if ok && strings.Trim(name, " \t\"'") == key {
			return fmt.Sprintf("%s:%d", path, i+1)
		}
	}
	return path
}

// derive fills in the defaults that depend on other settings and checks what results.
func derive(cfg *Config, from origin) error {
	cfg.Root, cfg.State = filepath.Clean(cfg.Root), filepath.Clean(cfg.State)
	if cfg.Listen == "" {
		cfg.Listen = "unix://" + filepath.Join(cfg.State, "fermata.sock")
		if from["state"] != "" {
			from["listen"] = from["state"]
		}
	}
	if cfg.Registries == "" {
		cfg.Registries = firstDir("/etc/fermata/certs.d", "/etc/containerd/certs.d")
	}
	if cfg.CNICacheDir == "" {
		cfg.CNICacheDir = filepath.Join(cfg.Root, "cni")
	}
	for _, s := range []struct{ path, flag string }{{cfg.Socket(), "listen"}, {cfg.KeeperSocket(), "state"}, {cfg.CadvisorPath(), "cadvisor-socket"}} {
		if n := len(s.path); n > MaxSocketPath {
			return errs.New(errs.InvalidArgument, "%s: socket path %s is %d bytes long, the kernel takes %d: choose a shorter one",
				from[s.flag], s.path, n, MaxSocketPath)
		}
	}
	return nil
}

// firstDir returns the first directory that exists, or the first of all.
func firstDir(dirs ...string) string {
	for _, d := range dirs {
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			return d
		}
	}
	return dirs[0]
}
