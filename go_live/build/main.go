// build builds a program into the folder that the pods of its Deployment see. go_live's Tiltfile runs it on each save.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := build{out: os.Stdout}
	flag.StringVar(&b.name, "name", "", "the name of the Deployment and of the program")
	flag.StringVar(&b.folder, "folder", "", "the folder that this machine shares with the node")
	flag.StringVar(&b.module, "module", ".", "the folder of the Go module")
	flag.StringVar(&b.pkg, "package", ".", "the package to build, relative to the module's folder")
	flag.Func("copy", "a source file or folder of the module; can be repeated", appendTo(&b.sources))
	flag.Func("flag", "a flag for go build; can be repeated", appendTo(&b.flags))
	flag.Func("restart-on", "a file or folder whose change restarts the pods; can be repeated", appendTo(&b.restartOn))
	flag.StringVar(&b.debugger, "debugger", "",
		"the folder of delve's module: build for debugging, and put delve next to the program")
	flag.BoolVar(&b.race, "race", false, "build with the race detector: needs a C compiler, and a libc to link statically")
	flag.StringVar(&b.architecture, "architecture", "", "the node's architecture (GOARCH)")
	flag.StringVar(&b.context, "context", "", "the kubectl context of the cluster")
	flag.StringVar(&b.namespace, "namespace", "", "the namespace of the Deployment")
	flag.Parse()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "go_live:", err)
		os.Exit(1)
	}
}

func appendTo(values *[]string) func(string) error {
	return func(value string) error {
		*values = append(*values, value)
		return nil
	}
}
