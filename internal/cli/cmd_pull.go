package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
)

var pullCommand = command{
	name: "pull", args: "[flags] IMAGE", group: groupImages, min: 1, max: 1,
	brief:   "fetch an image from its registry",
	example: "sudo fermata pull registry.example.com/app:1.2\nsudo fermata pull --username me --password-stdin registry.example.com/app:1.2 < token",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		user := flags.StringP("username", "u", "", "user at the registry")
		stdin := flags.Bool("password-stdin", false, "read the password or token from standard input")
		return func(ctx context.Context, args []string) error {
			auth, err := s.credentials(*user, *stdin)
			if err != nil {
				return err
			}
			_, err = s.pull(ctx, args[0], auth)
			return err
		}
	},
}

func (s *session) credentials(user string, fromStdin bool) (*runtimeapi.AuthConfig, error) {
	switch {
	case user == "" && !fromStdin:
		return nil, nil
	case user == "" || !fromStdin:
		return nil, misused("--username and --password-stdin go together: a password does not belong on a command line")
	}
	line, err := bufio.NewReader(io.LimitReader(s.Stdin, 1<<16)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	return &runtimeapi.AuthConfig{Username: user, Password: strings.TrimRight(line, "\r\n")}, nil
}

// pull fetches an image, shows how far it is, and returns its reference for the container's config.
func (s *session) pull(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	begun := time.Now()
	id, err := s.pullWatched(ctx, ref, auth)
	if status.Code(err) == codes.Unimplemented { // another runtime: it can pull, but not tell of it
		id, err = s.pullBlind(ctx, ref, auth)
	}
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	took := time.Since(begun)
	client, err := s.images(ctx)
	if err != nil {
		return "", err
	}
	size := ""
	if status, err := client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id}}); err == nil && status.Image != nil {
		size = ", " + bytesText(status.Image.Size) + " unpacked"
	}
	fmt.Fprintf(s.Stderr, "pulled %s in %s%s\n", ref, seconds(took), size)
	return id, nil
}

// pullWatched pulls by fermata.v1, which tells how far it is.
func (s *session) pullWatched(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	client, err := s.fermata(ctx)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.PullImage(ctx, &fermatav1.PullImageRequest{Image: ref, Username: auth.GetUsername(), Password: auth.GetPassword()})
	if err != nil {
		return "", err
	}
	var at atomic.Pointer[fermatav1.PullImageResponse]
	begun := time.Now()
	stop := s.redraw(func() string { return pullLine(ref, at.Load(), time.Since(begun)) })
	defer stop()
	for {
		m, err := stream.Recv()
		if err != nil {
			return "", err
		}
		if m.GetId() != "" {
			return m.GetId(), nil
		}
		at.Store(m)
	}
}

// pullBlind pulls by CRI.
func (s *session) pullBlind(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	client, err := s.images(ctx)
	if err != nil {
		return "", err
	}
	stop := s.progress("pulling " + ref)
	defer stop()
	answer, err := client.PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: ref}, Auth: auth,
	})
	return answer.GetImageRef(), err
}

// barWidth is how many characters the bar of a pull has.
const barWidth = 30

// pullLine draws a pull: a bar, bytes, layers and rate, or the time alone until it is known how much there is.
func pullLine(ref string, at *fermatav1.PullImageResponse, since time.Duration) string {
	if at.GetTotal() == 0 {
		return fmt.Sprintf("pulling %s … %s", ref, seconds(since))
	}
	got := min(at.GetBytes(), at.GetTotal())
	full := int(got * barWidth / at.GetTotal())
	bar := strings.Repeat("█", full) + strings.Repeat("░", barWidth-full)
	rate := bytesText(uint64(float64(got) / max(since.Seconds(), 0.001)))
	return fmt.Sprintf("%s %s %3d%%  %s of %s, %d of %d layers, %s/s",
		ref, bar, got*100/at.GetTotal(), bytesText(got), bytesText(at.GetTotal()), at.GetLayers(), at.GetLayersTotal(), rate)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// progress shows what is being done and for how long, until the returned function is called.
func (s *session) progress(what string) (stop func()) {
	begun := time.Now()
	return s.redraw(func() string { return fmt.Sprintf("%s … %s", what, seconds(time.Since(begun))) })
}

// redraw shows one line on a terminal, drawn anew ten times a second until the returned function is called; elsewhere it shows nothing.
func (s *session) redraw(line func() string) (stop func()) {
	if !s.Terminal {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				fmt.Fprint(s.Stderr, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(s.Stderr, "\r%s\x1b[K", line())
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
