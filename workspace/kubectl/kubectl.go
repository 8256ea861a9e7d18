// Package kubectl asks a cluster, by kubectl.
package kubectl

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"

	"example.com/invoices/workspace/process"
)

// Context is a cluster and a user of it, by the name that kubectl knows them by.
type Context string

// Command prepares kubectl with this context.
func (c Context) Command(ctx context.Context, args ...string) *exec.Cmd {
	return process.Command(ctx, "kubectl", append([]string{"--context=" + string(c)}, args...)...)
}

// Send is Command for one that reads an object from its standard input: there no other user of the machine sees it.
func (c Context) Send(ctx context.Context, object any, args ...string) (*exec.Cmd, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	command := c.Command(ctx, append(args, "--filename=-")...)
	command.Stdin = strings.NewReader(string(text))
	return command, nil
}
