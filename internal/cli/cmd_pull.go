package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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

// pull fetches an image, shows how long it takes, and returns its reference for the container's config.
func (s *session) pull(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	client, err := s.images(ctx)
	if err != nil {
		return "", err
	}
	begun := time.Now()
	stop := s.progress("pulling " + ref)
	answer, err := client.PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: ref}, Auth: auth,
	})
	stop()
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	took := time.Since(begun)
	size := ""
	if status, err := client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: answer.ImageRef}}); err == nil && status.Image != nil {
		size = ", " + bytesText(status.Image.Size) + " unpacked"
	}
	fmt.Fprintf(s.Stderr, "pulled %s in %s%s\n", ref, seconds(took), size)
	return answer.ImageRef, nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// progress redraws one line on a terminal until the returned function is called; elsewhere it shows nothing. CRI says nothing of
// how far a pull is, so the time is all there is to show.
func (s *session) progress(what string) (stop func()) {
	if !s.Terminal {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		begun, tick := time.Now(), time.NewTicker(100*time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				fmt.Fprint(s.Stderr, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(s.Stderr, "\r%s … %s\x1b[K", what, seconds(time.Since(begun)))
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
