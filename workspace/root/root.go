// Package root checks for root privileges and tells other users which command to run instead.
package root

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"example.com/invoices/workspace/process"
)

// Require returns nil for root, and otherwise an error with the command to run as root. That command starts this
// compiled program with root's home, so that root leaves no files in the user's caches or in the clone.
func Require(ctx context.Context, what string, args ...string) error {
	asRoot, home := os.Geteuid() == 0, os.Getenv("HOME")
	if asRoot && !belongsTo(os.Getenv("SUDO_UID"), home) {
		return nil
	}
	command, err := command(ctx, args)
	if err != nil {
		return err
	}
	if asRoot {
		return fmt.Errorf("%s would leave files owned by root in %s, another user's home. Run this instead:\n  %s",
			what, home, command)
	}
	return fmt.Errorf("%s needs root:\n  %s", what, command)
}

// command returns the command line that runs this program as root.
func command(ctx context.Context, args []string) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	root, err := user.LookupId("0")
	if err != nil {
		return "", err
	}
	words := []string{"sudo", "env", "HOME=" + root.HomeDir, "GOWORK=off"}
	for _, name := range []string{"PATH", "IMAGE_LIST", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
		"https_proxy", "no_proxy"} {
		if value := os.Getenv(name); value != "" {
			words = append(words, name+"="+value)
		}
	}
	words = append(words, goSettings(ctx)...)
	words = append(words, dockerHost(ctx)...)
	return process.Words(slices.Concat(words, []string{program}, args)), nil
}

// goSettings returns the user's settings for downloading Go modules, from the environment or go env -w.
func goSettings(ctx context.Context) []string {
	changed, err := process.Output(process.Command(ctx, "go", "env", "-changed", "-json"))
	set := map[string]string{}
	if err != nil || json.Unmarshal([]byte(changed), &set) != nil {
		return nil
	}
	var words []string
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE"} {
		if value, found := set[name]; found {
			words = append(words, name+"="+value)
		}
	}
	return words
}

// dockerHost returns the setting for the user's Docker endpoint, unless it is the default one.
func dockerHost(ctx context.Context) []string {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		const template = "{{.Endpoints.docker.Host}}"
		host, _ = process.Output(process.Command(ctx, "docker", "context", "inspect", "--format", template))
	}
	if host == "" || host == "unix:///var/run/docker.sock" {
		return nil
	}
	return []string{"DOCKER_HOST=" + host}
}

// belongsTo reports whether a folder is owned by the user who called sudo, which sets SUDO_UID.
func belongsTo(sudoUID, folder string) bool {
	info, err := os.Stat(folder)
	if err != nil || sudoUID == "" || sudoUID == "0" {
		return false
	}
	return strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10) == sudoUID
}
