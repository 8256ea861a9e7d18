// Package kubectl builds kubectl commands.
package kubectl

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"

	"example.com/invoices/workspace/process"
)

// Context is the name of a kubectl context.
type Context string

// Command returns a kubectl command that uses this context.
func (c Context) Command(ctx context.Context, args ...string) *exec.Cmd {
	return process.Command(ctx, "kubectl", append([]string{"--context=" + string(c)}, args...)...)
}

// Send returns a kubectl command that reads an object from standard input, where other users of this machine cannot
// see it.
func (c Context) Send(ctx context.Context, object any, args ...string) (*exec.Cmd, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	command := c.Command(ctx, append(args, "--filename=-")...)
	command.Stdin = strings.NewReader(string(text))
	return command, nil
}
