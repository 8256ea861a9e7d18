package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"runtime/debug"
	"sync"

	"github.com/gin-gonic/gin"
)

// version describes the running program and what it was built from.
type version struct {
	Service  string            `json:"service"`
	SHA256   string            `json:"sha256"` // of the program's file
	Revision string            `json:"revision,omitempty"`
	Modified bool              `json:"modified,omitempty"` // since the revision
	Go       string            `json:"go"`
	OS       string            `json:"os"`
	Arch     string            `json:"arch"`
	Tags     string            `json:"tags,omitempty"`
	Modules  map[string]string `json:"modules"` // versions by path
}

// readVersion hashes the whole program, so it does that once, and only on demand.
var readVersion = sync.OnceValues(func() (*version, error) {
	sum, err := sumProgram()
	if err != nil {
		return nil, fmt.Errorf("read this program: %w", err)
	}
	v := &version{SHA256: sum, Modules: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v, nil
	}
	v.Service, v.Go = path.Base(info.Path), info.GoVersion
	for _, module := range info.Deps {
		v.Modules[module.Path] = module.Version
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Revision = setting.Value
		case "vcs.modified":
			v.Modified = setting.Value == "true"
		case "GOOS":
			v.OS = setting.Value
		case "GOARCH":
			v.Arch = setting.Value
		case "-tags":
			v.Tags = setting.Value
		}
	}
	return v, nil
})

func sumProgram() (string, error) {
	// On Linux this is the running program, even if its file has been replaced since.
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		var name string
		if name, err = os.Executable(); err == nil {
			file, err = os.Open(name)
		}
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func showVersion(c *gin.Context) {
	v, err := readVersion()
	if err != nil {
		Fail(c, err)
		return
	}
	c.JSON(http.StatusOK, v)
}
