// compile compiles invoice-app into FOLDER for one of the compared tools, with the flags that make go_live's builds
// fast. If IMAGE is given, it also builds and pushes that image.
//
// usage: compile FOLDER [IMAGE]     in the repository's root folder
package main

import (
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 || len(os.Args) > 3 {
		log.Fatal("usage: compile FOLDER [IMAGE]")
	}
	if err := compile(os.Args[1]); err != nil {
		log.Fatal(err)
	}
	if len(os.Args) == 3 {
		if err := push(os.Args[1], os.Args[2]); err != nil {
			log.Fatal(err)
		}
	}
}

func compile(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	// The file's modification time records the start of the compilation.
	if err := os.WriteFile(folder+".begun", nil, 0o644); err != nil {
		return err
	}
	program := filepath.Join(folder, "invoice-app")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags=nosqlite,nomsgpack",
		"-gcflags=all=-dwarf=false", "-ldflags=-s -w -buildid=", "-o", program+".new", "./invoice-app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if err := run(build); err != nil {
		return err
	}
	return os.Rename(program+".new", program)
}

func push(folder, image string) error {
	build := exec.Command("docker", "build", "--quiet", "--tag", image, "--file", "-", folder)
	build.Stdin = strings.NewReader("FROM scratch\nCOPY invoice-app /\nENTRYPOINT [\"/invoice-app\"]\n")
	if err := run(build); err != nil {
		return err
	}
	return run(exec.Command("docker", "push", "--quiet", image))
}

func run(command *exec.Cmd) error {
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	return command.Run()
}
