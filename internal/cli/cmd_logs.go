package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// followEvery is how often a log that is followed is looked at: below what a person notices, and next to no work.
const followEvery = 100 * time.Millisecond

var logsCommand = command{
	name: "logs", args: "[flags] POD|CONTAINER", group: groupPods, min: 1, max: 1,
	brief: "show what a container wrote",
	long: `The log is read from the file the daemon names, so this works on the daemon's machine only. What the container
wrote to standard error goes to standard error.`,
	example: "fermata logs web\nfermata logs -f --tail 10 web -c server\nfermata logs --since 5m --timestamps web/server",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		o := &logOptions{}
		container := flags.StringP("container", "c", "", "which container of the pod")
		flags.BoolVarP(&o.follow, "follow", "f", false, "go on as the container writes, until it ends")
		flags.IntVar(&o.tail, "tail", -1, "only the last `N` lines (default all)")
		flags.Lookup("tail").DefValue = "0" // pflag shows no zero

		since := flags.String("since", "", "only what is newer: a `DURATION` like 5m, or a time as 2026-01-02T15:04:05Z")
		flags.BoolVar(&o.timestamps, "timestamps", false, "begin each line with its time")
		return func(ctx context.Context, args []string) error {
			var err error
			if o.since, err = parseSince(*since, time.Now()); err != nil {
				return err
			}
			return s.logs(ctx, args[0], *container, o)
		}
	},
}

type logOptions struct {
	follow, timestamps bool
	// tail < 0 = all.
	tail int
	// since is zero = from the start.
	since time.Time
}

func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	return time.Time{}, misused("--since %q: a duration like 5m, or a time like 2026-01-02T15:04:05Z", text)
}

func (s *session) logs(ctx context.Context, name, in string, o *logOptions) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	c, err := v.container(name, in)
	if err != nil {
		return err
	}
	found, err := s.containerStatus(ctx, c.Id)
	if err != nil {
		return err
	}
	if found.LogPath == "" {
		return fmt.Errorf("logs of %s: its pod has no log directory, so nothing is kept", v.containerName(c))
	}
	f, err := os.Open(found.LogPath)
	if errors.Is(err, os.ErrNotExist) && found.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("logs of %s: it has not started", v.containerName(c))
	}
	if err != nil {
		return fmt.Errorf("logs of %s: %w", v.containerName(c), err)
	}
	p := &logPrinter{session: s, options: o, path: found.LogPath, id: c.Id, file: f}
	defer func() { p.file.Close() }()
	return p.print(ctx)
}

func (s *session) containerStatus(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	client, err := s.runtime(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, fmt.Errorf("ask for container %s: %w", short(id), err)
	}
	return answer.Status, nil
}

// logPrinter shows one log, and follows it over rotations.
type logPrinter struct {
	*session
	options *logOptions
	path    string
	id      string
	file    *os.File
	// partial is whether the last line shown has more to come: then no time and no line break go between.
	partial bool
}

func (p *logPrinter) print(ctx context.Context) error {
	if p.options.tail >= 0 {
		start, err := tailStart(p.file, p.options.tail)
		if err != nil {
			return err
		}
		if _, err := p.file.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	lines := &lineReader{r: bufio.NewReaderSize(p.file, 64<<10)}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		// Asked before reading: what was written before the end is read after it.
		ended, err := p.ended(ctx)
		if err != nil {
			return err
		}
		if err := p.drain(lines); err != nil {
			return err
		}
		if next := p.rotated(); next != nil {
			p.file.Close()
			p.file, lines = next, &lineReader{r: bufio.NewReaderSize(next, 64<<10)}
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // an interrupted -f is not a failure
		case <-tick.C:
		}
	}
}

// ended reports whether nothing more will be written, or nothing more is wanted.
func (p *logPrinter) ended(ctx context.Context) (bool, error) {
	if !p.options.follow {
		return true, nil
	}
	c, err := p.containerStatus(ctx, p.id)
	switch {
	case ctx.Err() != nil || status.Code(err) == codes.NotFound:
		return true, nil
	case err != nil:
		return true, err
	}
	return c.State == runtimeapi.ContainerState_CONTAINER_EXITED, nil
}

// rotated returns the file that has taken the log's place, or nil.
func (p *logPrinter) rotated() *os.File {
	if !p.options.follow {
		return nil
	}
	next, err := os.Open(p.path)
	if err != nil {
		return nil // between the rename and the new file
	}
	a, errA := p.file.Stat()
	b, errB := next.Stat()
	if errA != nil || errB != nil || os.SameFile(a, b) {
		next.Close()
		return nil
	}
	return next
}

func (p *logPrinter) drain(lines *lineReader) error {
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", p.path, err)
		}
		if err := p.line(line); err != nil {
			return err
		}
	}
}

func (p *logPrinter) line(line []byte) error {
	entry, _ := parseLog(line)
	if !entry.Time.IsZero() && entry.Time.Before(p.options.since) {
		return nil
	}
	to := p.Stdout
	if entry.Stream == "stderr" {
		to = p.Stderr
	}
	var out []byte
	if p.options.timestamps && !p.partial && !entry.Time.IsZero() {
		out = append(entry.Time.AppendFormat(out, time.RFC3339Nano), ' ')
	}
	out = append(out, entry.Text...)
	if !entry.Partial {
		out = append(out, '\n')
	}
	p.partial = entry.Partial
	_, err := to.Write(out)
	return err
}
