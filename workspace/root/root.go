// Package root is about what only root may do: it says how, to everybody else.
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

// Require returns nil for root, and else an error with the command that does the same as root. It runs this program
// as it is compiled now, with root's own home: nothing of root's gets into the user's caches, nor into the clone.
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
		return fmt.Errorf("%s would leave files of root's in %s, in the way of whose it is. This does not:\n  %s",
			what, home, command)
	}
	return fmt.Errorf("%s needs root:\n  %s", what, command)
}

// command is what to type to run this program as root.
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
	words = append(words, ofGo(ctx)...)
	words = append(words, ofDocker(ctx)...)
	return process.Words(slices.Concat(words, []string{program}, args)), nil
}

// ofGo is what the user has set for where Go gets modules from, as variables or by go env -w.
func ofGo(ctx context.Context) []string {
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

// ofDocker is where the user's Docker is, unless it is where everybody's is.
func ofDocker(ctx context.Context) []string {
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

// belongsTo tells whether a folder is that of the user who has called sudo, which sets SUDO_UID.
func belongsTo(sudoUID, folder string) bool {
	info, err := os.Stat(folder)
	if err != nil || sudoUID == "" || sudoUID == "0" {
		return false
	}
	return strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10) == sudoUID
}
