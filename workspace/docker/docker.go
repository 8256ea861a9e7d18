// Package docker asks Docker, by its own command, for what the workspace needs to know of its containers.
package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"example.com/invoices/workspace/process"
)

// Container is what Docker says of a container.
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

// Inspect returns nil if there is no container of that name.
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

// HostPort is the port of this machine that a container's port is mapped to, or "".
func (c *Container) HostPort(port string) string {
	if bindings := c.HostConfig.PortBindings[port]; len(bindings) > 0 {
		return bindings[0].HostPort
	}
	return ""
}

// Running tells whether the container runs, be it frozen.
func (c *Container) Running() bool {
	return c != nil && (c.State.Status == "running" || c.State.Status == "paused")
}

// Unpause lets a container go on that was frozen.
func (c *Container) Unpause(ctx context.Context, name string) error {
	if c == nil || c.State.Status != "paused" {
		return nil
	}
	c.State.Status = "running"
	return process.Run(process.Command(ctx, "docker", "unpause", name))
}

// InspectImage is what Docker says of an image, or "" where there is none of that name.
func InspectImage(ctx context.Context, name, template string) (string, error) {
	said, err := process.Output(process.Command(ctx, "docker", "image", "inspect", "--format", template, name))
	if err != nil && strings.Contains(strings.ToLower(err.Error()), "no such image") {
		return "", nil
	}
	return said, err
}

// ImageID is the ID of the image that a tag is now, or "" where Docker knows none.
func ImageID(ctx context.Context, tag string) string {
	id, err := InspectImage(ctx, tag, "{{.Id}}")
	if err != nil {
		return ""
	}
	return id
}

// Remove removes all that a listing command of docker names: what is a word such as "container".
func Remove(ctx context.Context, what string, list []string, remove ...string) error {
	said, err := process.Output(process.Command(ctx, "docker", append([]string{what, "ls", "--quiet"}, list...)...))
	if err != nil || said == "" {
		return err
	}
	args := append([]string{what}, remove...)
	return process.Run(process.Command(ctx, "docker", append(args, strings.Fields(said)...)...))
}

// Version is the engine's, or why it does not answer.
func Version(ctx context.Context, format string) (string, error) {
	return process.Output(process.Command(ctx, "docker", "version", "--format", format))
}
