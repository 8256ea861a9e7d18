package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/cluster"
)

func (w *workspace) psqlCommand() *cobra.Command {
	databases := w.databases()
	command := &cobra.Command{
		Use:   "psql TEAM [SQL]",
		Short: "Open psql in the database of a team, or run SQL in it",
		Long: `Opens psql as the superuser of a database, in its own container in the cluster CLUSTER_NAME. With SQL, or if
standard input is no terminal, it runs these statements and ends.

TEAM is one of: ` + strings.Join(databases, ", "),
		Args: arguments(1, 2),
	}
	kubeContext := command.Flags().String("context", "",
		"the cluster of this kubectl context, if it is the kind or minikube cluster of CLUSTER_NAME")
	product := productFlag(command.Flags())
	command.RunE = func(command *cobra.Command, args []string) error {
		if !slices.Contains(databases, args[0]) {
			return usageError{command, fmt.Errorf("%s has no database: must be one of %s",
				args[0], strings.Join(databases, ", "))}
		}
		c, err := cluster.New(w.Paths, *product, w.clusterName())
		if *kubeContext != "" {
			c, err = cluster.OfContext(w.Paths, *kubeContext, w.clusterName())
		}
		if err != nil {
			return err
		}
		if err := w.setTools(); err != nil {
			return err
		}
		kubectl, err := exec.LookPath("kubectl")
		if err != nil {
			return err
		}
		info, err := os.Stdin.Stat()
		terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
		// This process becomes kubectl, so that it keeps the terminal.
		return syscall.Exec(kubectl, append([]string{"kubectl"}, psqlIn(c.Context, args, terminal)...), os.Environ())
	}
	return command
}

// psqlIn returns the arguments with which kubectl runs psql in a team's database: with the SQL that follows the team in
// args, if any, and otherwise with what it reads.
func psqlIn(kubeContext string, args []string, terminal bool) []string {
	words := []string{"--context=" + kubeContext, "--namespace=" + args[0], "exec", "postgres-0", "--container=postgres"}
	statement := args[1:]
	if len(statement) == 0 {
		words = append(words, "--stdin")
		if terminal {
			words = append(words, "--tty")
		}
	}
	words = append(words, "--", "psql", "--no-psqlrc", "--pset=pager=off") // the image has no pager
	if !terminal || len(statement) > 0 {
		words = append(words, "--set=ON_ERROR_STOP=1")
	}
	for _, sql := range statement {
		words = append(words, "--command="+sql)
	}
	return append(words, args[0])
}

// databases returns the names of the teams that have a database.
func (w *workspace) databases() (teams []string) {
	for _, team := range w.Services.Teams() {
		if _, ok := team.WithDatabase(); ok {
			teams = append(teams, team.Name)
		}
	}
	return teams
}
