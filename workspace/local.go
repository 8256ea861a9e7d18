package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/local"
)

func (w *workspace) runCommand() *cobra.Command {
	reset := false
	variables, ports := "", map[string]string{}
	for _, service := range w.Services.Services {
		variable := service.Variable("PORT")
		variables += fmt.Sprintf("\n  %-22s  port of %s on localhost (default %d)", variable, service.Name, service.Port)
		ports[service.Name] = cmp.Or(os.Getenv(variable), strconv.Itoa(service.Port))
	}
	command := &cobra.Command{
		Use:   "run",
		Short: "Run the services on this machine (make run, make reset)",
		Long: `Builds the services and runs them until Ctrl-C. Their data is in data/, and the next run uses it again.
` + variables,
		Args: arguments(0, 0),
		RunE: func(command *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			services := local.Services{
				List:       w.Services,
				Ports:      ports,
				Programs:   w.Build("bin"),
				Out:        command.OutOrStdout(),
				Minder:     []string{program, "mind"},
				WithParent: os.Getenv("MAKELEVEL") != "", // killing make run kills make, but not this process
			}
			if reset {
				return services.Reset()
			}
			return services.Run(command.Context())
		},
	}
	command.Flags().BoolVar(&reset, "reset", false, "delete data/ and run nothing")
	return command
}

func (w *workspace) testCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "test",
		Short:              "Pay every unpaid invoice of a running invoice-app, and verify that they are paid (./test.sh)",
		DisableFlagParsing: true, // payall parses them
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := exec.LookPath("go")
			if err != nil {
				return err
			}
			return syscall.Exec(program, append([]string{"go", "run", "./test/payall"}, args...), os.Environ())
		},
	}
}

func (w *workspace) mindCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "mind PROGRAM",
		Short:  "Run a program until standard input ends",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			code, err := local.Mind(args[0])
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			os.Exit(code)
			return nil
		},
	}
}
