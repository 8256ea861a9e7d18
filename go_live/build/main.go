// build builds a program into the folder that pods of its Deployment see: the Tiltfile beside it runs this on each
// save.
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
	flag.StringVar(&b.name, "name", "", "the Deployment's name, and the program's")
	flag.StringVar(&b.folder, "folder", "", "the folder that this machine shares with the node")
	flag.StringVar(&b.module, "module", ".", "the folder of the Go module")
	flag.StringVar(&b.pkg, "package", ".", "what go build builds there")
	flag.Func("copy", "a file or folder of the module that it is built from; may be repeated", appendTo(&b.sources))
	flag.Func("flag", "for go build; may be repeated", appendTo(&b.flags))
	flag.Func("restart-on", "a file or folder whose change restarts the pods; may be repeated", appendTo(&b.restartOn))
	flag.StringVar(&b.debugger, "debugger", "",
		"the folder of delve's module: build for a debugger, and put it beside the program")
	flag.StringVar(&b.architecture, "architecture", "", "of the node, as Go calls it")
	flag.StringVar(&b.context, "context", "", "the cluster, as kubectl calls it")
	flag.StringVar(&b.namespace, "namespace", "", "the Deployment's")
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
