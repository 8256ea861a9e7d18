package service

import (
	"context"
	"fmt"

	"example.com/invoices/workspace/services"
)

// Monitoring lists the programs of k8s/monitoring. They are built like services, so they need no registry but the
// cluster's own.
var Monitoring = []services.Service{
	{Name: "audit", Description: "Audit: compares what the services have stored", User: 10012},
	{Name: "victoria-metrics", Description: "VictoriaMetrics: scrapes, keeps and shows metrics", User: 10011},
	{Name: "vmalert", Description: "vmalert: evaluates alert rules", User: 10011},
}

// BuildMonitoringImage builds the image of one of these programs, as BuildImage does for a service.
func BuildMonitoringImage(
	ctx context.Context, program services.Service, folder, registry, architecture string,
) (Image, error) {
	if program.Name == "audit" {
		return BuildImage(ctx, program, folder, registry, architecture)
	}
	pkg := "github.com/VictoriaMetrics/VictoriaMetrics/app/" + program.Name
	image, err := buildImage(ctx, program, "tools/victoria-metrics", pkg, folder, registry, architecture)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", program.Name, err)
	}
	return image, nil
}
