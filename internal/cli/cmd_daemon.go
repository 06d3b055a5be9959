package cli

import (
	"context"
	"errors"
	"fmt"

	"fermata/internal/config"
)

var daemonCommand = command{
	name: "daemon", args: "[flags]", group: groupStart, max: 0,
	brief: "serve CRI: start the runtime itself, as root, until it is told to end",
	long: `It needs no configuration. Pods outlive it: when it ends, is killed or upgraded, containers run on and the next
daemon takes them over. To end pods, use "fermata stop" and "fermata rm".

Settings come from the defaults, then the configuration file, then these flags; "fermata config explain" shows
what holds and where it is from.`,
	example: `sudo fermata daemon
sudo fermata daemon --state /run/second --root /var/lib/second --bridge second0 --cgroup-parent /second`,
	raw: func(ctx context.Context, c *command, env Env, args []string) error {
		cfg, err := config.Load(args)
		switch {
		case errors.Is(err, config.ErrHelp):
			fmt.Fprint(env.Stdout, c.help())
			return nil
		case err != nil:
			return &misuse{err}
		case env.Daemon == nil:
			return errors.New("daemon: this binary was built without it")
		}
		return env.Daemon(ctx, cfg)
	},
	rawFlags: config.Usage,
}
