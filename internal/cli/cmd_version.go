package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
)

var versionCommand = command{
	name: "version", args: "", group: groupDaemon, max: 0,
	brief: "versions of this program and of the daemon",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, _ []string) error { return s.version(ctx) }
	},
}

// versions is what `fermata version -o json` prints.
type versions struct {
	Client string                      `json:"client"`
	Build  string                      `json:"build"`
	Server *runtimeapi.VersionResponse `json:"server,omitempty"`
	Daemon *fermatav1.VersionResponse  `json:"daemon,omitempty"`
}

func (s *session) version(ctx context.Context) error {
	all := versions{Client: s.Version, Build: fmt.Sprintf("%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)}
	if s.output != "json" && s.output != "yaml" {
		fmt.Fprintf(s.Stdout, "client:  fermata %s (%s)\n", all.Client, all.Build)
	}
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	if all.Server, err = client.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return fmt.Errorf("ask the daemon for its version: %w", err)
	}
	own, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	// Another CRI runtime may be behind the socket; it has no fermata.v1 and is shown all the same.
	all.Daemon, err = own.Version(ctx, &fermatav1.VersionRequest{})
	if err != nil && status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("ask the daemon for its version: %w", err)
	}
	if done, err := s.structured(all, ""); done {
		return err
	}
	fmt.Fprintf(s.Stdout, "daemon:  %s %s, CRI %s\n", all.Server.RuntimeName, all.Server.RuntimeVersion, all.Server.RuntimeApiVersion)
	if d := all.Daemon; d != nil {
		fmt.Fprintf(s.Stdout, "         pid %d, root %s, instance %s (%s)\n", d.Pid, d.Root, d.Instance, d.Build)
	}
	return nil
}
