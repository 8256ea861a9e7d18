package main

import (
	"context"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

func (w *workspace) reachesCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "reaches URL",
		Short:  "Check that a URL responds within five seconds",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE: func(command *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(command.Context(), 5*time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodHead, args[0], nil)
			if err != nil {
				return usageError{command, err}
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			return response.Body.Close()
		},
	}
}
