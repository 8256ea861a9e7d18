// Package docker inspects and removes Docker's containers and images, using the docker command.
package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"example.com/invoices/workspace/process"
)

// Container is the part of docker container inspect that the workspace uses.
type Container struct {
	Image  string // its ID
	State  struct{ Status string }
	Config struct {
		Image string // its name
	}
	HostConfig struct {
		Binds        []string
		PortBindings map[string][]struct{ HostPort string }
	}
	Mounts          []struct{ Destination string }
	NetworkSettings struct{ Networks map[string]struct{} }
}

// Inspect returns the named container, or nil if it does not exist.
func Inspect(ctx context.Context, name string) (*Container, error) {
	said, err := process.Output(process.Command(ctx, "docker", "container", "inspect", name))
	if err != nil {
		if strings.Contains(strings.ToLower(err.Error()), "no such container") {
			return nil, nil
		}
		return nil, err
	}
	var containers []Container
	if err := json.Unmarshal([]byte(said), &containers); err != nil {
		return nil, fmt.Errorf("docker container inspect %s: %w", name, err)
	}
	return &containers[0], nil
}

// HostPort returns the port of this machine that is mapped to a container's port, or "".
func (c *Container) HostPort(port string) string {
	if bindings := c.HostConfig.PortBindings[port]; len(bindings) > 0 {
		return bindings[0].HostPort
	}
	return ""
}

// Running reports whether the container is running or paused.
func (c *Container) Running() bool {
	return c != nil && (c.State.Status == "running" || c.State.Status == "paused")
}

// Unpause resumes the container if it is paused.
func (c *Container) Unpause(ctx context.Context, name string) error {
	if c == nil || c.State.Status != "paused" {
		return nil
	}
	c.State.Status = "running"
	return process.Run(process.Command(ctx, "docker", "unpause", name))
}

// InspectImage returns the template's output for an image, or "" if there is no such image.
func InspectImage(ctx context.Context, name, template string) (string, error) {
	said, err := process.Output(process.Command(ctx, "docker", "image", "inspect", "--format", template, name))
	if err != nil && strings.Contains(strings.ToLower(err.Error()), "no such image") {
		return "", nil
	}
	return said, err
}

// ImageID returns the ID of the image that a tag currently refers to, or "" if there is none.
func ImageID(ctx context.Context, tag string) string {
	id, err := InspectImage(ctx, tag, "{{.Id}}")
	if err != nil {
		return ""
	}
	return id
}

// Remove removes all objects of a kind, such as "container", that docker ls lists with the given arguments.
func Remove(ctx context.Context, what string, list []string, remove ...string) error {
	said, err := process.Output(process.Command(ctx, "docker", append([]string{what, "ls", "--quiet"}, list...)...))
	if err != nil || said == "" {
		return err
	}
	args := append([]string{what}, remove...)
	return process.Run(process.Command(ctx, "docker", append(args, strings.Fields(said)...)...))
}

// Version returns the engine's version in a format, or an error that says why the engine does not respond.
func Version(ctx context.Context, format string) (string, error) {
	return process.Output(process.Command(ctx, "docker", "version", "--format", format))
}
