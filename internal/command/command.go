// Package command builds the command line that all services have.
package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"example.com/invoices/internal/config"
)

// New returns a service's command, which serves unless a subcommand is named. Its help is usage, followed by the
// variables of settings. No command runs with settings that are invalid.
func New(name, usage string, settings *config.Set, log *slog.Logger, serve func(context.Context) error) *cobra.Command {
	root := &cobra.Command{
		Use: name, Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if err := settings.Err(); err != nil && c.Name() != "help" {
				return err
			}
			slog.SetDefault(log)
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context()) },
	}
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		out := c.OutOrStdout()
		fmt.Fprintf(out, "%s\nVariables (a .env file in the service's folder may set them, too), "+
			"their defaults and meaning:\n", usage)
		settings.Help(out)
	})
	root.AddCommand(&cobra.Command{Use: "serve", Args: cobra.NoArgs, RunE: root.RunE})
	return root
}

// AddMigrate adds the command that brings the database's schema up to date, and grants what serving needs to a role.
func AddMigrate(root *cobra.Command, migrate func(ctx context.Context, grantTo string) error) {
	command := &cobra.Command{Use: "migrate", Args: cobra.NoArgs}
	grantTo := command.Flags().String("grant-to", "", "")
	command.RunE = func(c *cobra.Command, _ []string) error { return migrate(c.Context(), *grantTo) }
	root.AddCommand(command)
}

// Main runs the command that the process's arguments name and ends the process. The context of a command ends at the
// first SIGINT or SIGTERM; a second one ends the process at once.
func Main(root *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", root.Name(), err)
		os.Exit(1)
	}
}
