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
		Short: "Print the names, ports and folders of a cluster",
		Long: `Prints the definition of the cluster named by CLUSTER_NAME (default: ` + w.Services.Product + `): the names of
the cluster and its parts, its ports and its folders, and with --json the services that are deployed to it. The Tiltfile
and the tests read these values from here.`,
		Args: arguments(0, 0),
	}
	flags := command.Flags()
	asJSON := flags.Bool("json", false, "as JSON")
	definition := flags.Bool("ctlptl", false, "as the file from which ctlptl creates the cluster")
	kubeContext := flags.String("context", "",
		"the cluster of this kubectl context, if it is the kind or minikube cluster of CLUSTER_NAME")
	live := flags.Bool("live", false, "make sure that the cluster's node sees the folder that tilt up shares with it")
	production := flags.Bool("production", false, "the cluster of workspace/run production")
	product := productFlag(flags)
	command.RunE = func(command *cobra.Command, _ []string) error {
		ctx := command.Context()
		c, err := cluster.New(w.Paths, *product, w.clusterName())
		switch {
		case *production:
			c, err = w.productionCluster()
		case *kubeContext != "":
			c, err = cluster.OfContext(w.Paths, *kubeContext, w.clusterName())
		}
		if err != nil {
			return err
		}
		ports, err := askedPorts(command, c)
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

// printFields prints the fields of a JSON object in their order, one per line.
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
			continue // services.yaml is easier to read
		}
		if _, err := fmt.Fprintf(out, "%-18s%v\n", name, value); err != nil {
			return err
		}
	}
	return nil
}
