package spec

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// maxString is the longest argument or environment string that execve(2) takes (MAX_ARG_STRLEN less the NUL).
	maxString = 131071
	// maxHostname is HOST_NAME_MAX of Linux.
	maxHostname = 64
	// Bounds of /proc/PID/oom_score_adj, proc_pid_oom_score_adj(5).
	oomScoreAdjMin, oomScoreAdjMax = -1000, 1000
)

func process(in Input, sc *runtimeapi.LinuxContainerSecurityContext) (*specs.Process, error) {
	args, err := args(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	env, err := environment(in)
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	caps, err := Capabilities(sc, in.Facts)
	if err != nil {
		return nil, err
	}
	oom, err := oomScoreAdj(in.Config.GetLinux().GetResources().GetOomScoreAdj(), in.Facts)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{
		Terminal:        in.Config.Tty,
		User:            specs.User{UID: in.Identity.UID, GID: in.Identity.GID, AdditionalGids: in.Identity.Groups},
		Args:            args,
		Env:             env,
		Cwd:             cwd,
		Capabilities:    caps,
		NoNewPrivileges: sc.NoNewPrivs,
		OOMScoreAdj:     &oom,
	}
	if !RunsWithoutLabel(in.Sandbox, sc) {
		p.SelinuxLabel = in.SELinux.Process
	}
	if !sc.Privileged {
		p.ApparmorProfile = in.AppArmorProfile
	}
	return p, nil
}

// Process returns the process of an exec: cmd, with everything else as the container's own (CRI EXS-4).
func Process(container *specs.Spec, cmd []string, tty bool) *specs.Process {
	p := *container.Process
	p.Args = slices.Clone(cmd)
	p.Env = slices.Clone(p.Env)
	p.Terminal = tty
	p.ConsoleSize = nil
	if tty {
		p.Env = setDefault(p.Env, "TERM", "xterm")
	}
	return &p
}

// args follows Docker's rules: a command replaces the image's entrypoint and its arguments, arguments alone only the latter.
func args(c *runtimeapi.ContainerConfig, img Image) ([]string, error) {
	command, args := c.Command, c.Args
	if len(command) == 0 {
		command = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	all := slices.Concat(command, args)
	if len(all) == 0 || all[0] == "" {
		return nil, errs.New(errs.InvalidArgument, "command: no command specified, neither by the container nor by its image")
	}
	return all, checkArgs("command or args", all)
}

// environment is the image's, then the host name, then the container's own; later ones win in the place of earlier ones. What every
// program expects is added if nobody said it.
func environment(in Input) ([]string, error) {
	var env []string
	for _, e := range in.Image.Env {
		key, value, ok := strings.Cut(e, "=")
		if !ok || key == "" { // an image's slip should not keep a pod from running; runc ignores these too
			continue
		}
		env = set(env, key, value)
	}
	if in.Hostname != "" {
		env = set(env, "HOSTNAME", in.Hostname)
	}
	for _, e := range in.Config.Envs {
		if e.GetKey() == "" || strings.Contains(e.GetKey(), "=") {
			return nil, errs.New(errs.InvalidArgument, "envs: bad key %q", e.GetKey())
		}
		env = set(env, e.Key, string(e.Value))
	}
	env = setDefault(env, "PATH", defaultPath)
	if in.Config.Tty {
		env = setDefault(env, "TERM", "xterm")
	}
	home := in.Identity.Home
	if home == "" {
		home = "/"
	}
	env = setDefault(env, "HOME", home)
	for _, e := range env {
		if err := checkString("envs", e); err != nil {
			return nil, err
		}
		if strings.HasPrefix(e, "HOME=") && strings.Contains(e, "\n") { // CVE-2022-4318: a line break that somebody may write to passwd
			return nil, errs.New(errs.InvalidArgument, "envs: HOME has a line break")
		}
	}
	return env, nil
}

// set gives a variable a value, where it stands or at the end.
func set(env []string, key, value string) []string {
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

func setDefault(env []string, key, value string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, key+"=") {
			return env
		}
	}
	return append(env, key+"="+value)
}

func workingDir(c *runtimeapi.ContainerConfig, img Image) (string, error) {
	dir := c.WorkingDir
	if dir == "" {
		dir = img.WorkingDir
	}
	if !strings.HasPrefix(dir, "/") { // Docker takes a relative one as below /
		dir = "/" + dir
	}
	return dir, checkString("working_dir", dir)
}

func oomScoreAdj(value int64, f Facts) (int, error) {
	if value < oomScoreAdjMin || value > oomScoreAdjMax {
		return 0, errs.New(errs.InvalidArgument, "linux.resources.oom_score_adj: %d is not from %d to %d", value, oomScoreAdjMin, oomScoreAdjMax)
	}
	return max(int(value), f.OOMScoreAdjMin), nil
}

// CheckCommand refuses a command that cannot be run in any container (CRI EXS-5).
func CheckCommand(cmd []string) error {
	if len(cmd) == 0 || cmd[0] == "" {
		return errs.New(errs.InvalidArgument, "cmd: the command is empty")
	}
	return checkArgs("cmd of the command", cmd)
}

// checkArgs refuses arguments that execve(2) cannot carry, and a program that no file can be.
func checkArgs(field string, args []string) error {
	for i, arg := range args {
		if err := checkString(fmt.Sprintf("%s[%d]", field, i), arg); err != nil {
			return err
		}
	}
	if program := args[0]; len(program) > maxPath || !strings.Contains(program, "/") && len(program) > maxName {
		return errs.New(errs.InvalidArgument, "%s[0]: %.80q… is too long for a file's name", field, program)
	}
	return nil
}

// maxName is NAME_MAX.
const maxName = 255

// checkString refuses what execve(2) cannot carry.
func checkString(field, s string) error {
	if len(s) > maxString {
		return errs.New(errs.InvalidArgument, "%s: a string of %d bytes is over the kernel's %d: %.32q…", field, len(s), maxString, s)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return errs.New(errs.InvalidArgument, "%s: %.64q has a NUL", field, s)
	}
	return nil
}

// CheckHostname refuses a host name the kernel would not take or that would break out of a line of a file; "" is fine.
func CheckHostname(name string) error {
	if len(name) > maxHostname {
		return errs.New(errs.InvalidArgument, "hostname: %d bytes are over the kernel's %d: %.80q", len(name), maxHostname, name)
	}
	if strings.ContainsAny(name, "\x00\n\r \t/") {
		return errs.New(errs.InvalidArgument, "hostname: bad byte in %q", name)
	}
	return nil
}
