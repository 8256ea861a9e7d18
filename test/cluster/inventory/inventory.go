// Package inventory lists the state of this machine that a cluster can leave behind or disturb.
package inventory

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Take lists Docker's containers (with ID, state and start time), volumes, networks and image tags, kubectl's contexts
// and its current one, and minikube's profiles and its active one. The lines are sorted.
func Take() ([]string, error) {
	var lines []string
	add := func(prefix, said string) {
		for line := range strings.Lines(said) {
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, prefix+" "+line)
			}
		}
	}
	ids, err := output("docker", "container", "ls", "--all", "--quiet")
	if err != nil {
		return nil, err
	}
	if ids != "" {
		said, err := output("docker", append([]string{"container", "inspect", "--format",
			"{{.Name}} {{.Id}} {{.State.Status}} {{.State.StartedAt}}"}, strings.Fields(ids)...)...)
		if err != nil {
			return nil, err
		}
		add("container", said)
	}
	for prefix, command := range map[string][]string{
		"volume":  {"docker", "volume", "ls", "--format", "{{.Name}}"},
		"network": {"docker", "network", "ls", "--format", "{{.Name}} {{.ID}}"},
		"image":   {"docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"},
		"context": {"kubectl", "config", "get-contexts", "--output=name"},
	} {
		said, err := output(command[0], command[1:]...)
		if err != nil {
			return nil, err
		}
		add(prefix, said)
	}
	current, _ := output("kubectl", "config", "current-context") // there may be none
	lines = append(lines, "current-context "+current)

	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}
	profiles, _ := os.ReadDir(filepath.Join(home, ".minikube/profiles"))
	for _, profile := range profiles {
		lines = append(lines, "profile "+profile.Name())
	}
	if active := ActiveProfile(); active != "" {
		lines = append(lines, "active-profile "+active)
	}
	slices.Sort(lines)
	return lines, nil
}

// ActiveProfile returns the name of minikube's active profile, or "" if none is set.
func ActiveProfile() string {
	home, _ := os.UserHomeDir()
	var config struct {
		Profile string `json:"profile"`
	}
	if data, err := os.ReadFile(filepath.Join(home, ".minikube/config/config.json")); err == nil {
		_ = json.Unmarshal(data, &config) // minikube cannot read an invalid file either
	}
	return config.Profile
}

func output(name string, args ...string) (string, error) {
	command := exec.Command(name, args...)
	command.Stderr = os.Stderr
	said, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w", command.Args, err)
	}
	return strings.TrimSpace(string(said)), nil
}
