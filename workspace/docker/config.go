package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Config is the configuration of the Docker client.
type Config struct {
	Path        string                       `json:"-"`
	CredsStore  string                       `json:"credsStore"`
	CredHelpers map[string]string            `json:"credHelpers"` // by registry
	Proxies     map[string]map[string]string `json:"proxies"`     // set in containers, by engine
}

// ReadConfig reads the Docker client's configuration, which is empty if there is no file.
func ReadConfig() (Config, error) {
	folder := os.Getenv("DOCKER_CONFIG")
	if folder == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return Config{}, err
		}
		folder = filepath.Join(home, ".docker")
	}
	config := Config{Path: filepath.Join(folder, "config.json")}
	data, err := os.ReadFile(config.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err == nil {
		if err = json.Unmarshal(data, &config); err != nil {
			err = fmt.Errorf("%s: %w", config.Path, err)
		}
	}
	return config, err
}

// MissingHelper returns a configured credential helper that is not installed, or "".
func (c Config) MissingHelper() string {
	for _, name := range append(slices.Sorted(maps.Values(c.CredHelpers)), c.CredsStore) {
		helper := "docker-credential-" + name
		if _, err := exec.LookPath(helper); name != "" && errors.Is(err, exec.ErrNotFound) {
			return helper
		}
	}
	return ""
}
