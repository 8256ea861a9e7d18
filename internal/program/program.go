// Package program is what a service's main function stands on: signals,
// commands, help and the exit code.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"example.com/invoices/internal/config"
)

// Program is a service's command line. C is its typed configuration.
type Program[C any] struct {
	Name     string
	Usage    string // one line for each command
	Config   func(*config.Set) C
	Logger   func(C) *slog.Logger
	Commands map[string]Command[C] // "serve" is what runs when none is named
}

// Command is one of a program's commands.
type Command[C any] struct {
	Flags func(*flag.FlagSet) // adds the command's flags; nil for none
	Args  int                 // how many arguments it takes
	Run   func(ctx context.Context, cfg C, args []string) error
}

// Main runs the command that the process's arguments name and ends the
// process. The context ends at the first SIGINT or SIGTERM; a second one ends
// the process at once.
func (p Program[C]) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := p.run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		os.Exit(1)
	}
}

func (p Program[C]) run(ctx context.Context, args []string, out io.Writer) error {
	settings := config.New(p.Name)
	cfg := p.Config(settings)

	name := "serve"
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	help := name == "help" || name == "-h" || name == "--help"
	command, known := p.Commands[name]
	if !known && !help {
		return fmt.Errorf("unknown command %q; try: %s help", name, p.Name)
	}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong is in the error
	if command.Flags != nil {
		command.Flags(flags)
	}
	err := flags.Parse(args)
	if help || errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(out, "%s\nVariables (a .env file in the service's folder may set them, too), their defaults and meaning:\n", p.Usage)
		settings.Help(out)
		return nil
	}
	if err == nil && flags.NArg() != command.Args {
		err = fmt.Errorf("%d arguments expected, not %d", command.Args, flags.NArg())
	}
	if err != nil {
		return fmt.Errorf("%s: %w; try: %s help", name, err, p.Name)
	}
	if err := settings.Err(); err != nil {
		return err
	}
	slog.SetDefault(p.Logger(cfg))
	return command.Run(ctx, cfg, flags.Args())
}
