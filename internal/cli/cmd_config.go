package cli

import (
	"context"
	"errors"
	"fmt"

	"fermata/internal/config"
)

var configCommand = command{
	name: "config", args: "explain [flags]", group: groupDaemon,
	brief: "explain the daemon's settings: every key, its value and where it is from",
	long: `The flags are those of "fermata daemon"; the configuration file is TOML with the keys shown. A key that does not
exist stops the daemon's start, with its line and the nearest key that does.`,
	example: "fermata config explain\nfermata config explain --config ./fermata.toml",
	raw: func(_ context.Context, c *command, env Env, args []string) error {
		if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
			fmt.Fprint(env.Stdout, c.help())
			return nil
		}
		if len(args) == 0 || args[0] != "explain" {
			return misused("usage: fermata config explain [flags of fermata daemon]")
		}
		cfg, err := config.Load(args[1:])
		switch {
		case errors.Is(err, config.ErrHelp):
			fmt.Fprint(env.Stdout, c.help())
			return nil
		case err != nil:
			return &misuse{err}
		}
		t := newTable("KEY", "VALUE", "FROM", "TYPE", "MEANING")
		for _, o := range config.Options() {
			key := o.Key()
			if o.FlagOnly {
				key = "--" + o.Flag
			}
			t.add(key, orDash(cfg.Value(o)), cfg.From(o), string(o.Kind), o.Description)
		}
		return t.print(env.Stdout)
	},
	rawFlags: config.Usage,
}
