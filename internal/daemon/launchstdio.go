package daemon

import (
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/config"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
	"fermata/internal/pod"
	"fermata/internal/spec"
)

// stdioOwner is who owns a process's standard streams, as the host numbers it: by /dev/stdout they are opened anew, with a check.
func stdioOwner(s *specs.Spec, p *specs.Process) (uid, gid uint32, err error) {
	users := spec.UsersOf(s)
	if uid, err = users.HostUID(p.User.UID); err == nil {
		gid, err = users.HostGID(p.User.GID)
	}
	return uid, gid, err
}

// logLimits are what the configuration says that a container's log may take.
func logLimits(cfg *config.Config) (*wire.Log, error) {
	size, err := config.ParseSize(cfg.ContainerLogMaxSize)
	if err != nil {
		return nil, err
	}
	rate, err := config.ParseSize(cfg.ContainerLogRate)
	if err != nil {
		return nil, err
	}
	files, _ := strconv.Atoi(cfg.ContainerLogMaxFiles) // checked when it was read; 0 is the keeper's own default
	return &wire.Log{MaxSize: size, MaxFiles: files, Rate: rate}, nil
}

// containerStdio says what the container's standard streams are.
func (r *launcher) containerStdio(l *wire.Launch, c *pod.ContainerStart) (err error) {
	if c.LogBase != "" {
		if l.Log, err = logLimits(r.cfg); err != nil {
			return err
		}
		l.Log.Base = c.LogBase
	}
	if c.Spec.Process.Terminal {
		l.Stdin, l.Stdout, l.Stderr = wire.Given, wire.Given, wire.Given
		return nil
	}
	l.Stdin, l.Stdout, l.Stderr = wire.Null, wire.FIFO, wire.FIFO
	if c.Config.GetStdin() {
		l.Stdin = wire.FIFO
	}
	return nil
}

// execStdio passes an exec's streams.
func execStdio(l *wire.Launch, e *pod.ExecStart) error {
	uid, gid, err := stdioOwner(e.Spec, e.Process)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		role wire.Role
		fd   *linux.FD
		to   *wire.Stdio
	}{{wire.Stdin, e.Stdin, &l.Stdin}, {wire.Stdout, e.Stdout, &l.Stdout}, {wire.Stderr, e.Stderr, &l.Stderr}} {
		*s.to = wire.Null
		if s.fd == nil {
			continue
		}
		if uid != 0 || gid != 0 {
			if err := s.fd.Chown(uid, gid); err != nil {
				return err
			}
		}
		l.FDs = append(l.FDs, wire.PassedFD{Role: s.role, FD: s.fd})
		*s.to = wire.Given
	}
	return nil
}
