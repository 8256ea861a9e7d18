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
	f := shop(t)
	write(t, "till/main.go", "package main\n\nfunc main() {\n\tn, done := 0, make(chan bool)\n"+
		"\tgo func() { n++; done <- true }()\n\tn++\n\t<-done\n\tprintln(n)\n}\n")
	f.builds(till("--race"))
	built, err := elf.Open(file)
	require.NoError(t, err)
	defer built.Close()
	for _, segment := range built.Progs {
		assert.NotEqual(t, elf.PT_INTERP, segment.Type, "it is static")
	}
	report, err := exec.Command(file).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(report), "WARNING: DATA RACE")
	assert.Contains(t, string(report), "example.com/shop/till/main.go:6")

	said, err := f.run(till("--race", "--architecture=s390x")...)
	assert.ErrorIs(t, err, errFailed)
	assert.Equal(t, "go_live: --race needs a C compiler and libc of the node, which runs on linux/s390x, "+
		"but this machine is "+runtime.GOOS+"/"+runtime.GOARCH+": run the program's tests with go test -race instead\n", said)
}
