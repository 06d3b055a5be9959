package apparmor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"fermata/internal/errs"
)

// Options say where things are; the zero value is this machine.
type Options struct {
	// State is a directory that a reboot empties, as it does the kernel's policy: what was loaded last is noted in it.
	State string
	// Securityfs is where AppArmor's files are, "" for /sys/kernel/security/apparmor.
	Securityfs string
	// Parser is the program that compiles and loads, "" for apparmor_parser, looked for in PATH and where systems keep it.
	Parser string
	// Attribute tells the daemon's own profile, "" for /proc/self/attr/apparmor/current.
	Attribute string
}

// Policy is the kernel's set of profiles.
type Policy struct {
	o Options

	mu sync.Mutex // one load at a time
}

// Enabled reports whether the kernel has AppArmor and it is on.
func Enabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && bytes.HasPrefix(b, []byte("Y"))
}

// Open returns the policy; nothing is loaded yet.
func Open(o Options) *Policy {
	if o.Securityfs == "" {
		o.Securityfs = "/sys/kernel/security/apparmor"
	}
	if o.Attribute == "" {
		o.Attribute = "/proc/self/attr/apparmor/current"
	}
	return &Policy{o: o}
}

// Has reports whether the kernel has a profile. An error means that it cannot be told: securityfs is not mounted.
func (p *Policy) Has(name string) (bool, error) {
	f, err := os.Open(filepath.Join(p.o.Securityfs, "profiles"))
	if err != nil {
		return false, errs.New(errs.FailedPrecondition, "look for AppArmor profile %s: is securityfs mounted? %w", name, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() { // "name (enforce)"; names may have spaces
		if at := strings.LastIndex(lines.Text(), " ("); at > 0 && lines.Text()[:at] == name {
			return true, nil
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("look for AppArmor profile %s: %w", name, err)
	}
	return false, nil
}

// Default returns the name of containers' default profile, having loaded it if the kernel does not have it as it is now.
func (p *Policy) Default(ctx context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := profileText(p.own())
	has, err := p.Has(DefaultName)
	if err != nil {
		return "", err
	}
	note := filepath.Join(p.o.State, "apparmor-default")
	if noted, err := os.ReadFile(note); has && err == nil && string(noted) == text {
		return DefaultName, nil
	}
	if err := p.load(ctx, text); err != nil {
		return "", errs.New(errs.FailedPrecondition, "load AppArmor profile %s: %w", DefaultName, err)
	}
	return DefaultName, os.WriteFile(note, []byte(text), 0o600) // half of it is another text, and loads again
}

// own is the profile of this process: "name (mode)", or "unconfined".
func (p *Policy) own() string {
	b, err := os.ReadFile(p.o.Attribute)
	if err != nil {
		return ""
	}
	name := strings.TrimRight(string(b), "\n\x00")
	if at := strings.LastIndex(name, " ("); at > 0 {
		name = name[:at]
	}
	return name
}

// load compiles a profile and gives it to the kernel, replacing one of its name.
func (p *Policy) load(ctx context.Context, text string) error {
	parser, err := p.parser()
	if err != nil {
		return err
	}
	// No cache: it lies in /etc or /var, and this is done once a boot.
	cmd := exec.CommandContext(ctx, parser, "--replace", "--skip-cache", "--quiet")
	cmd.Stdin, cmd.Dir = strings.NewReader(text), "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %.500s", parser, err, bytes.TrimSpace(out))
	}
	return nil
}

func (p *Policy) parser() (string, error) {
	if p.o.Parser != "" {
		return p.o.Parser, nil
	}
	path, err := exec.LookPath("apparmor_parser")
	for _, dir := range []string{"/usr/sbin", "/sbin"} { // a daemon's PATH may lack them
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, "apparmor_parser"))
	}
	if err != nil {
		return "", fmt.Errorf("apparmor_parser: %w; install the package apparmor", errors.Unwrap(err))
	}
	return path, nil
}
