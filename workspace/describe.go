package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/cluster"
)

func (w *workspace) describeCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "describe",
		Short: "Say what a cluster is called, and where what belongs to it is",
		Long: `Prints the definition of the cluster of CLUSTER_NAME (` + w.Services.Product + `, unless it says otherwise): what it and its parts
are called, its ports, its folders, and with --json the services that are deployed to it. Whatever needs one of these asks
here.`,
		Args: arguments(0, 0),
	}
	flags := command.Flags()
	asJSON := flags.Bool("json", false, "as JSON")
	definition := flags.Bool("ctlptl", false, "as the file with which ctlptl makes it")
	kubeContext := flags.String("context", "", "the cluster that kubectl knows by this name, if it is kind's or minikube's of CLUSTER_NAME")
	live := flags.Bool("live", false, "make sure that its node sees the folder that tilt up shares with it")
	product := productFlag(flags)
	command.RunE = func(command *cobra.Command, _ []string) error {
		ctx := command.Context()
		c, err := cluster.New(w.Paths, *product, w.clusterName())
		if *kubeContext != "" {
			c, err = cluster.OfContext(w.Paths, *kubeContext, w.clusterName())
		}
		if err != nil {
			return err
		}
		ports, err := askedPorts(command)
		if err != nil {
			return err
		}
		if err := c.Look(ctx, ports, *live); err != nil {
			return err
		}
		if *definition {
			data, err := c.Definition(ctx, true)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(data)
			return err
		}
		if *asJSON {
			encoder := json.NewEncoder(os.Stdout)
			encoder.SetIndent("", "  ")
			return encoder.Encode(c)
		}
		fields, err := json.Marshal(c)
		if err != nil {
			return err
		}
		return printFields(os.Stdout, fields)
	}
	return command
}

// printFields prints the fields of a JSON object, one a line, in their order.
func printFields(out io.Writer, object []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		var value any
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		if _, isList := value.([]any); isList && name == "services" {
			continue // services.yaml says it better
		}
		if _, err := fmt.Fprintf(out, "%-18s%v\n", name, value); err != nil {
			return err
		}
	}
	return nil
}
