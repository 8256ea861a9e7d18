package main

import (
	"debug/elf"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A program with the race detector needs no libc in its image, and reports a race.
func TestWithTheRaceDetector(t *testing.T) {
	project(t)
	write(t, "till/main.go", "package main\n\nfunc main() {\n\tn, done := 0, make(chan bool)\n"+
		"\tgo func() { n++; done <- true }()\n\tn++\n\t<-done\n\tprintln(n)\n}\n")
	raced := till()
	raced.race = true
	said, err := raced.save(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "till is delivered to its pods\n", said)
	built, err := elf.Open(program)
	require.NoError(t, err)
	defer built.Close()
	for _, segment := range built.Progs {
		assert.NotEqual(t, elf.PT_INTERP, segment.Type, "it is static")
	}
	report, err := exec.Command(program).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(report), "WARNING: DATA RACE")
	assert.Contains(t, string(report), "example.com/shop/till/main.go:6")

	raced.architecture = "s390x"
	_, err = raced.save(t.Context())
	assert.EqualError(t, err, "--race needs a C compiler and libc of the node, which runs on linux/s390x, "+
		"but this machine is "+runtime.GOOS+"/"+runtime.GOARCH+": run the program's tests with go test -race instead")
}
