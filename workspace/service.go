package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/service"
	"example.com/invoices/workspace/services"
)

func (w *workspace) buildImageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "build-image SERVICE FOLDER",
		Short: "Build the image of a service and push it to the cluster's registry",
		Long: `Builds the image of one service, which contains only a static binary (FROM scratch), and pushes it to the
cluster's registry. The same source results in the same digest.

SERVICE must be in services.yaml, or a program of k8s/monitoring: audit, victoria-metrics or vmalert. The image's full
name, tagged with a hash of its content, is written to FOLDER/SERVICE.ref and printed. The program is kept in
FOLDER/SERVICE. Each cluster has its own FOLDER, so two clusters can be deployed to at the same time.

  EXPECTED_REGISTRY   registry to push to, such as localhost:5005; Tilt sets it to the registry of its cluster
  GOARCH              architecture of the node (default: Docker's architecture)`,
		Args: arguments(2, 2),
		RunE: func(command *cobra.Command, args []string) error {
			build := service.BuildImage
			program, found := w.Services.Find(args[0])
			monitoring := services.List{Services: service.Monitoring}
			if !found {
				program, found = monitoring.Find(args[0])
				build = service.BuildMonitoringImage
			}
			if !found {
				return usageError{command, fmt.Errorf("SERVICE must be one of %s",
					strings.Join(append(w.Services.Names(), monitoring.Names()...), ", "))}
			}
			registry, err := expectedRegistry()
			if err != nil {
				return err
			}
			architecture, err := service.Architecture(command.Context())
			if err != nil {
				return err
			}
			image, err := build(command.Context(), program, w.file(args[1]), registry, architecture)
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), image.Ref)
			}
			return err
		},
	}
}

func (w *workspace) pushImageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "push-image IMAGE NAME FOLDER",
		Short: "Push a local Docker image to the cluster's registry",
		Long: `Pushes the local Docker image IMAGE as NAME to the cluster's registry. The full name, tagged with a hash of the
image's content, is written to FOLDER/NAME.ref and printed.

  EXPECTED_REGISTRY   registry to push to, such as localhost:5005; Tilt sets it to the registry of its cluster`,
		Args: arguments(3, 3),
		RunE: func(command *cobra.Command, args []string) error {
			registry, err := expectedRegistry()
			if err != nil {
				return err
			}
			ref, err := service.PushImage(command.Context(), args[0], args[1], w.file(args[2]), registry)
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), ref)
			}
			return err
		},
	}
}

func expectedRegistry() (string, error) {
	if registry := os.Getenv("EXPECTED_REGISTRY"); registry != "" {
		return registry, nil
	}
	return "", errors.New("EXPECTED_REGISTRY is not set: must be a registry to push to, such as localhost:5005")
}

func (w *workspace) releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release REGISTRY",
		Short: "Publish the services for production (make release REGISTRY=…)",
		Long: `Builds the images of the services and pushes them to REGISTRY, each with an SBOM (CycloneDX, as an OCI referrer
of the image). Then writes the images' digests, and REGISTRY as the allowed registry, into
k8s/overlays/production/kustomization.yaml. A service that is released for the first time gets an entry there. Commit
that file: it defines what runs in production.

The same source, Go version and GOARCH (default: amd64) result in the same digests. Registry logins are Docker's: use
docker login or crane auth login.`,
		Args: arguments(1, 1),
		RunE: func(command *cobra.Command, args []string) error {
			if args[0] == "" { // make release without REGISTRY
				return usageError{command, errors.New("REGISTRY is missing")}
			}
			return service.Release(command.Context(), command.OutOrStdout(), w.Services, args[0],
				cmp.Or(os.Getenv("GOARCH"), "amd64"))
		},
	}
}
