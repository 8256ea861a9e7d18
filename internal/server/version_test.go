package server

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestVersion(t *testing.T) {
	response := get(newServer(io.Discard), "/version")
	require.Equal(t, http.StatusOK, response.Code)
	var shown version
	decoder := json.NewDecoder(response.Body)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&shown))
	assert.Equal(t, "server.test", shown.Service)
	assert.Equal(t, runtime.Version(), shown.Go)
	assert.Equal(t, runtime.GOOS+"/"+runtime.GOARCH, shown.OS+"/"+shown.Arch)
	_, sum := thisProgram(t)
	assert.Equal(t, sum, shown.SHA256)
}

// A program that is replaced while it runs, as by tilt up, still shows its own hash.
func TestVersionOfAReplacedProgram(t *testing.T) {
	if os.Getenv("REPLACED") != "" {
		fmt.Println("running")
		_, _ = io.ReadAll(os.Stdin)
		v, err := readVersion()
		fmt.Println(v.SHA256, err)
		return
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux keeps the file of a running program at hand")
	}
	content, sum := thisProgram(t)
	name := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(name, content, 0o700))
	program := exec.Command(name, "-test.run=^TestVersionOfAReplacedProgram$")
	program.Env = append(os.Environ(), "REPLACED=yes")
	input, err := program.StdinPipe()
	require.NoError(t, err)
	output, err := program.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, program.Start())
	lines := bufio.NewReader(output)
	_, err = lines.ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name+".new", []byte("another"), 0o700))
	require.NoError(t, os.Rename(name+".new", name))
	require.NoError(t, input.Close())
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, sum+" <nil>\n", line)
	_, _ = io.Copy(io.Discard, lines)
	require.NoError(t, program.Wait())
}

func thisProgram(t *testing.T) (content []byte, sum string) {
	t.Helper()
	name, err := os.Executable()
	require.NoError(t, err)
	content, err = os.ReadFile(name)
	require.NoError(t, err)
	hash := sha256.Sum256(content)
	return content, hex.EncodeToString(hash[:])
}
