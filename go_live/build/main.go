// build keeps the programs that pods run up to date with their source code. go_live's Tiltfile starts it.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "go_live:", err)
		}
		os.Exit(1)
	}
}

// errFailed means that the output has said why.
var errFailed = errors.New("failed")

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "build",
		Short:         "Keep the programs that pods run up to date with their source code",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddCommand(stateCommand(), watchCommand(), programCommand(), testCommand(), waitCommand(), updatesCommand(),
		recordCommand())
	return root
}

// stateFlags adds the flags that identify a project's `tilt up` for a cluster, and returns a function that returns the
// folder with its state.
func stateFlags(flags *pflag.FlagSet) func() (string, error) {
	project := flags.String("project", ".", "the folder of the Tiltfile")
	kubeContext := flags.String("context", "", "the kubectl context of the cluster")
	return func() (string, error) {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		path, err := filepath.Abs(*project)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err != nil {
			return "", err
		}
		// A short name, because a socket's path is limited to 103 characters.
		sum := sha256.Sum256([]byte(path + "\n" + *kubeContext))
		return filepath.Join(cache, "go_live", fmt.Sprintf("%x", sum[:6])), nil
	}
}

func stateCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "state",
		Short: "Print the folder with the state of a project's tilt up",
		Args:  cobra.NoArgs,
	}
	state := stateFlags(command.Flags())
	command.RunE = func(command *cobra.Command, _ []string) error {
		folder, err := state()
		if err == nil {
			err = os.MkdirAll(folder, 0o700)
		}
		if err == nil {
			fmt.Fprintln(command.OutOrStdout(), folder)
		}
		return err
	}
	return command
}

func watchCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "watch",
		Short: "Build each program that is registered whenever its code changes, and deliver it to its pods",
		Args:  cobra.NoArgs,
	}
	state := stateFlags(command.Flags())
	command.RunE = func(command *cobra.Command, _ []string) error {
		folder, err := state()
		if err != nil {
			return err
		}
		checkout, err := filepath.Abs(command.Flag("project").Value.String())
		if err != nil {
			return err
		}
		e := newEngine(folder, command.Flag("context").Value.String(), command.OutOrStdout())
		return (&server{engine: e, project: checkout, locks: map[string]*os.File{}}).serve(command.Context())
	}
	return command
}

func programCommand() *cobra.Command {
	p := program{}
	command := &cobra.Command{
		Use:   "program",
		Short: "Build a program from now on, and show its current update",
		Args:  cobra.NoArgs,
	}
	flags := command.Flags()
	state := stateFlags(flags)
	flags.StringVar(&p.Name, "name", "", "the name of the Deployment and of the program")
	flags.StringVar(&p.Folder, "folder", "", "the folder that this machine shares with the node")
	flags.StringVar(&p.Module, "module", ".", "the folder of the Go module, or of go.work")
	flags.StringVar(&p.Package, "package", ".", "the package to build, relative to the module's folder")
	flags.StringArrayVar(&p.Flags, "flag", nil, "a flag for go build; can be repeated")
	flags.StringArrayVar(&p.RestartOn, "restart-on", nil,
		"a file or folder whose change restarts the pods; can be repeated")
	flags.StringVar(&p.Debugger, "debugger", "",
		"the folder of delve's module: build for debugging, and put delve next to the program")
	flags.BoolVar(&p.Race, "race", false,
		"build with the race detector: needs a C compiler, and a libc to link statically")
	flags.StringVar(&p.Architecture, "architecture", runtime.GOARCH, "the node's architecture (GOARCH)")
	flags.StringVar(&p.Namespace, "namespace", "", "the namespace of the Deployment")
	flags.StringVar(&p.StatusPort, "status-port", "", "the port at which the supervisor says what it runs")
	command.RunE = func(command *cobra.Command, _ []string) error {
		folder, err := state()
		if err != nil {
			return err
		}
		paths := []*string{&p.Folder, &p.Module, &p.Debugger}
		for i := range p.RestartOn {
			paths = append(paths, &p.RestartOn[i])
		}
		for _, path := range paths {
			if *path == "" {
				continue
			}
			if *path, err = filepath.Abs(*path); err != nil {
				return err
			}
			if *path, err = filepath.EvalSymlinks(*path); err != nil { // as Go names files
				return err
			}
		}
		body, err := json.Marshal(p)
		if err != nil {
			return err
		}
		return ask(command.Context(), folder, http.MethodPost, "/build", bytes.NewReader(body), command.OutOrStdout())
	}
	return command
}

func testCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "test [-- FLAG...]",
		Short: "Run the tests of the programs' packages whenever no program is being built",
		Args:  cobra.ArbitraryArgs,
	}
	state := stateFlags(command.Flags())
	command.RunE = func(command *cobra.Command, flags []string) error {
		folder, err := state()
		if err != nil {
			return err
		}
		path := "/test?" + url.Values{"flag": flags}.Encode()
		return ask(command.Context(), folder, http.MethodPost, path, nil, command.OutOrStdout())
	}
	return command
}

func waitCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "wait",
		Short: "Wait until every pod runs what is on disk and its tests have run",
		Long: `Waits until every pod runs the program that is on disk, and its tests have run. Fails if there is an error, and
prints the first one.`,
		Args: cobra.NoArgs,
	}
	flags := command.Flags()
	state := stateFlags(flags)
	asJSON := flags.Bool("json", false, "print the result as JSON")
	limit := flags.Duration("timeout", 5*time.Minute, "how long to wait")
	command.RunE = func(command *cobra.Command, _ []string) error {
		folder, err := state()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(command.Context(), *limit)
		defer cancel()
		var said bytes.Buffer
		if err := ask(ctx, folder, http.MethodGet, "/wait", nil, &said); errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("not everything is live and tested after %s", *limit)
		} else if err != nil {
			return err
		}
		var found report
		if err := json.Unmarshal(said.Bytes(), &found); err != nil {
			return err
		}
		if *asJSON {
			_, _ = said.WriteTo(command.OutOrStdout())
		} else {
			found.print(command.OutOrStdout())
		}
		if found.Error != "" {
			return errFailed
		}
		return nil
	}
	return command
}

func (r report) print(out io.Writer) {
	for _, u := range r.Updates {
		switch {
		case u.Error != "":
			fmt.Fprintf(out, "%s is not live: %s\n", u.Service, u.Error)
		case u.Total == 0:
			fmt.Fprintf(out, "%s is live in %s\n", u.Service, u.pods())
		default:
			fmt.Fprintln(out, u)
		}
	}
	switch {
	case r.Tests == nil:
		fmt.Fprintln(out, "the tests have not run for this code")
	case r.Tests.Passed:
		fmt.Fprintf(out, "the tests passed in %.1f s\n", r.Tests.Seconds)
	default:
		fmt.Fprintf(out, "the tests failed: %s\n", r.Tests.Error)
	}
	if len(r.Updates) == 0 {
		fmt.Fprintln(out, r.Error)
	}
}

func updatesCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "updates",
		Short: "Show how long the last updates took",
		Args:  cobra.NoArgs,
	}
	state := stateFlags(command.Flags())
	picture := command.Flags().String("picture", "", "also draw them into this SVG file")
	push := command.Flags().String("push", "",
		"instead, send them and all later ones to this URL, in Prometheus' text format")
	command.RunE = func(command *cobra.Command, _ []string) error {
		folder, err := state()
		if err != nil {
			return err
		}
		if *push != "" {
			return pushUpdates(command.Context(), command.OutOrStdout(), folder, *push)
		}
		updates, err := readUpdates(folder)
		if err != nil {
			return err
		}
		printUpdates(command.OutOrStdout(), updates)
		if *picture == "" {
			return nil
		}
		return os.WriteFile(*picture, drawUpdates(updates), 0o644)
	}
	return command
}

// ask sends a request to the watcher and copies its response to out.
func ask(ctx context.Context, folder, method, path string, body io.Reader, out io.Writer) error {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socketOf(folder))
		},
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://go_live"+path, body)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	absent := func() bool { return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) }
	// Tilt has just started the watcher.
	for began := time.Now(); absent() && method == http.MethodPost && time.Since(began) < patience; {
		time.Sleep(10 * time.Millisecond)
		response, err = client.Do(request)
	}
	if absent() {
		return errors.New("nothing watches the code: start `tilt up`, or trigger its resource go_live")
	} else if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(response.Body)
		return errors.New(strings.TrimSpace(string(said)))
	}
	if _, err := io.Copy(out, response.Body); err != nil {
		return err
	}
	if response.Trailer.Get(failedTrailer) != "" {
		return errFailed
	}
	return nil
}
