package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/load"
)

func (w *workspace) loadCommand() *cobra.Command {
	const longest = time.Hour
	var steady load.Load
	command := &cobra.Command{
		Use:   "load [URL]",
		Short: "Send requests at a steady rate, and print the latencies",
		Long: `Sends GET requests to URL (default: a page of invoices of make run or ./deploy.sh) at a steady rate, until the
time is over or Ctrl-C, and prints their number, their results and latencies. No request waits for the response to
another one. It fails if a request was not answered with status 200.`,
		Args: arguments(0, 1),
		RunE: func(command *cobra.Command, args []string) error {
			if steady.Rate < 1 || steady.For <= 0 || steady.For > longest {
				return usageError{command, fmt.Errorf("--rate must be at least 1, and --for positive and at most %s", longest)}
			}
			steady.URL = fmt.Sprintf("http://localhost:%d/invoices?limit=10", w.Services.Public().Port)
			if len(args) > 0 {
				steady.URL = args[0]
			}
			steady.Out = command.OutOrStdout()
			return steady.Run(command.Context())
		},
	}
	command.Flags().IntVar(&steady.Rate, "rate", 100, "requests per second")
	command.Flags().DurationVar(&steady.For, "for", time.Minute, "how long")
	return command
}
