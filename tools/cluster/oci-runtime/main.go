// Command oci-runtime runs runc without requesting a capability that this
// process lacks itself.
//
// On machines that lack CAP_SYS_RESOURCE (in nested sandboxes), runc cannot
// start privileged containers: "unable to apply caps: operation not permitted".
// They work if that capability is not requested. On other machines this command
// changes nothing.
//
// It wraps runc in the node image, and workspace/run privileged registers it
// with Docker on machines that need it.
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

// CAP_SYS_RESOURCE is the only capability that is known to be missing on
// machines that have to run containers.
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

// findRunc returns the path of runc. It looks next to this program first, for
// the name used in the node image.
func findRunc() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, candidate := range []string{
		filepath.Join(filepath.Dir(self), "runc.real"),
		"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc", "/usr/local/bin/runc",
	} {
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && candidate != self {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("runc not found next to %s or in the usual folders", self)
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

// specifications returns the files that specify what to run: config.json in the
// bundle for "create" and "run", the argument of --process for "exec".
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
	// Preserve numbers as they are written: some are unsigned 64-bit.
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
