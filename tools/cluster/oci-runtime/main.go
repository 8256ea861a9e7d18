// Command oci-runtime runs runc with a container's capabilities cut down to
// those that this process has itself.
//
// Where the machine lacks one (CAP_SYS_RESOURCE, in nested sandboxes), runc
// refuses every privileged container: "unable to apply caps: operation not
// permitted". Asking for less than everything is all that is needed. Where
// nothing is missing, nothing is changed.
//
// The node image has it around its own runc, and workspace/run privileged
// registers it with Docker on machines that need it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// resource is CAP_SYS_RESOURCE, the only capability that is known to be
// missing where containers must run all the same.
const (
	resource    = "CAP_SYS_RESOURCE"
	resourceBit = 24
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "oci-runtime:", err)
		os.Exit(1)
	}
}

func run() error {
	missing, err := resourceIsMissing()
	if err != nil {
		return err
	}
	if missing {
		for _, file := range specifications(os.Args[1:]) {
			if err := dropFrom(file); err != nil {
				return err
			}
		}
	}
	runc, err := findRunc()
	if err != nil {
		return err
	}
	return syscall.Exec(runc, append([]string{"runc"}, os.Args[1:]...), os.Environ())
}

// findRunc looks beside the program first, under the name that the node image
// gives to its own.
func findRunc() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, candidate := range []string{filepath.Join(filepath.Dir(self), "runc.real"), "/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc", "/usr/local/bin/runc"} {
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && candidate != self {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("no runc beside %s, nor in the usual folders", self)
}

func resourceIsMissing() (bool, error) {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return false, err
	}
	defer status.Close()
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		if mask, found := strings.CutPrefix(lines.Text(), "CapEff:"); found {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return bits&(1<<resourceBit) == 0, err
		}
	}
	return false, fmt.Errorf("no CapEff in /proc/self/status: %v", lines.Err())
}

// specifications names the files that say what to run: config.json of the
// bundle for "create" and "run", the file after --process for "exec".
func specifications(arguments []string) []string {
	var files []string
	for i, argument := range arguments {
		name, value, joined := strings.Cut(argument, "=")
		if !joined && i+1 < len(arguments) {
			value = arguments[i+1]
		}
		switch name {
		case "--bundle", "-b":
			files = append(files, filepath.Join(value, "config.json"))
		case "--process", "-p":
			files = append(files, value)
		}
	}
	return files
}

func dropFrom(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(strings.NewReader(string(content)))
	// Keep every number as it is written: some are unsigned 64-bit.
	decoder.UseNumber()
	var specification map[string]any
	if err := decoder.Decode(&specification); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	process, ok := specification["process"].(map[string]any)
	if !ok {
		process = specification
	}
	capabilities, ok := process["capabilities"].(map[string]any)
	if !ok {
		return nil
	}
	for set, names := range capabilities {
		if names, ok := names.([]any); ok {
			capabilities[set] = slices.DeleteFunc(names, func(name any) bool { return name == resource })
		}
	}
	content, err = json.Marshal(specification)
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o600)
}
