// Package cli is the command line: one file a command. Every command but `daemon` is a client of the daemon's socket like any
// other and speaks CRI v1 and, for what CRI has no word for, fermata.v1. It holds no state and knows no file of the daemon's.
//
// An error says what was done to which object, the cause, and what to do about it where that is known.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"fermata/internal/config"
	"fermata/internal/suggest"
)

// Env is what a command may use of the process it runs in.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal is whether Stderr is one that a progress line can be redrawn on.
	Terminal bool
	// Console is the terminal that Stdin is; nil when it is none.
	Console *Console
	// Address of the daemon when --address is not given; "" = [DefaultAddress].
	Address string
	// Version is this binary's own.
	Version string
	// Daemon runs the daemon until ctx ends; nil in a binary without one.
	Daemon func(ctx context.Context, cfg *config.Config) error
}

// exit is an error that is only an exit status: what there was to say has been said.
type exit struct{ code int }

func (e *exit) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// misuse is a command line that cannot be understood.
type misuse struct{ err error }

func (m *misuse) Error() string { return m.err.Error() }

func misused(format string, args ...any) error { return &misuse{fmt.Errorf(format, args...)} }

// Main runs the command that args (without the program's name) ask for and returns the exit status: 0, 1 for a failure, 2 for a
// command line that cannot be understood, 130 for a session that Ctrl-C ended, and for exec the command's own.
func Main(ctx context.Context, args []string, env Env) int {
	err := dispatch(ctx, args, env)
	var code *exit
	var wrong *misuse
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return code.code
	case errors.As(err, &wrong):
		fmt.Fprintln(env.Stderr, "fermata:", err)
		return 2
	}
	fmt.Fprintln(env.Stderr, "fermata:", plain(err))
	return 1
}

func dispatch(ctx context.Context, args []string, env Env) error {
	global := &globals{}
	flags := pflag.NewFlagSet("fermata", pflag.ContinueOnError)
	flags.SetInterspersed(false)
	flags.Usage = func() {}
	global.register(flags)
	version := flags.Bool("version", false, "")
	if err := parse(flags, args, "fermata --help"); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprint(env.Stdout, overview())
			return nil
		}
		return err
	}
	switch rest := flags.Args(); {
	case *version:
		fmt.Fprintln(env.Stdout, "fermata", env.Version)
		return nil
	case len(rest) == 0:
		fmt.Fprint(env.Stdout, overview())
		return nil
	case rest[0] == "help":
		return help(env, rest[1:])
	default:
		rest = withoutNoun(rest)
		cmd := find(rest[0])
		if cmd == nil {
			return misused("command %q: unknown%s; `fermata --help` lists them", rest[0], suggest.DidYouMean(rest[0], names()))
		}
		return runCommand(ctx, cmd, rest[1:], global, env)
	}
}

// withoutNoun takes the forms that people bring along ("image load", "image ls") for the commands they mean.
func withoutNoun(words []string) []string {
	if words[0] != "image" || len(words) < 2 {
		return words
	}
	verb := words[1]
	if known, ok := map[string]string{"ls": "images", "list": "images", "rm": "rmi", "remove": "rmi", "inspect": "inspect"}[verb]; ok {
		verb = known
	}
	return append([]string{verb}, words[2:]...)
}

func runCommand(ctx context.Context, cmd *command, args []string, global *globals, env Env) error {
	if cmd.raw != nil {
		return cmd.raw(ctx, cmd, env, args)
	}
	s := &session{Env: env, globals: global}
	defer s.close()
	flags := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	run := cmd.build(s, flags)
	global.register(flags)
	err := parse(flags, args, "fermata "+cmd.name+" --help")
	if err == nil {
		err = global.check()
	}
	if n := flags.NArg(); err == nil && (n < cmd.min || cmd.max >= 0 && n > cmd.max) {
		err = misused("%s", strings.TrimSpace("usage: fermata "+cmd.name+" "+cmd.args))
	}
	if err == nil {
		err = run(ctx, flags.Args())
	}
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Fprint(env.Stdout, cmd.help())
		return nil
	}
	return err
}

// parse adds the nearest flag to the library's message about an unknown one.
func parse(flags *pflag.FlagSet, args []string, help string) error {
	err := flags.Parse(args)
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return err
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var all []string
		flags.VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
		return misused("flag --%s: unknown%s; see `%s`",
			unknown.GetSpecifiedName(), suggest.DidYouMean(unknown.GetSpecifiedName(), all), help)
	}
	return misused("%w; see `%s`", err, help)
}

// globals are the flags that every command takes, before or after its name.
type globals struct{ address, output string }

func (g *globals) register(flags *pflag.FlagSet) {
	flags.StringVar(&g.address, "address", g.address, "the daemon's socket (default $FERMATA_ADDRESS, else "+DefaultAddress+")")
	flags.StringVarP(&g.output, "output", "o", g.output, "table, wide, json or yaml")
}

func (g *globals) check() error {
	switch g.output {
	case "", "table", "wide", "json", "yaml":
		return nil
	}
	return misused("--output %q: one of table, wide, json, yaml%s", g.output,
		suggest.DidYouMean(g.output, []string{"table", "wide", "json", "yaml"}))
}
