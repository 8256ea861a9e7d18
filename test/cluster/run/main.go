// run deploys to a throwaway cluster, tests it and removes it: see usage.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"sigs.k8s.io/yaml"

	"example.com/invoices/test/cluster/inventory"
	"example.com/invoices/test/cluster/target"
	"example.com/invoices/workspace/services"
)

const usage = `usage: go -C test/cluster run ./run [--short] PRODUCT [OTHER]     (make test-cluster, make test-minikube)
       go -C test/cluster run ./run [--short] production          (make test-production, make test-long)

Creates a cluster with its own name and ports, using ./deploy.sh and PRODUCT (kind or minikube), runs test/cluster/e2e,
a few of test/cluster/mutants, test/cluster/newservice and test/cluster/loop on it, removes it and checks that nothing
is left: containers, volumes, networks, image tags, contexts. Meanwhile there is a foreign cluster, made by hand with
the same product and stopped, which must not change. If OTHER is given, a cluster of that product is created, tested
with --short and removed beside the first one. test/cluster/machines runs last.

"production" creates a cluster with workspace/run production, runs test/cluster/production on it and removes it.

  --short   e2e: six pods Ready, paying from outside, network edges, stopping and starting, deploying again;
            loop: a save is live; no mutants, no newservice; production: fewer faults and changes

  CLUSTER_NAME (PRODUCT-test, of services.yaml), INVOICE_APP_PORT (18081), REGISTRY_PORT (15005)
  production: CLUSTER_NAME (PRODUCT-rehearsal), ENTRY_PORT (18443), REGISTRY_PORT (15006)
`

const repository = "../.." // from this module's folder

type run struct {
	ctx     context.Context
	product string
	other   string
	short   bool
	beside  string // the product of the existing cluster, if this is the run for OTHER
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	r := &run{ctx: ctx, beside: os.Getenv("BESIDE")}
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.BoolVar(&r.short, "short", false, "")
	flag.Parse()
	r.product, r.other = flag.Arg(0), flag.Arg(1)
	list, err := services.Read(repository)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if r.product == "production" && r.other == "" {
		setDefault("CLUSTER_NAME", list.Product+"-rehearsal")
		setDefault("ENTRY_PORT", "18443")
		setDefault("REGISTRY_PORT", "15006")
		exit(r.production())
	}
	products := []string{"kind", "minikube"}
	if !slices.Contains(products, r.product) ||
		r.other != "" && !slices.Contains(products, r.other) || r.other == r.product {
		flag.Usage()
		os.Exit(2)
	}
	setDefault("CLUSTER_NAME", list.Product+"-test")
	setDefault("INVOICE_APP_PORT", "18081")
	setDefault("REGISTRY_PORT", "15005")
	set("CLUSTER_PRODUCT", r.product)
	// The foreign cluster's name has ours as a prefix.
	set("NEIGHBOUR", os.Getenv("CLUSTER_NAME")+"-"+r.product)
	exit(r.run())
}

// exit ends the program, with status 1 if there is an error.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// production tests a rehearsal of production on its own cluster.
func (r *run) production() (err error) {
	destroy := func() error { return r.do("workspace/run", "production", "--destroy") }
	if err := destroy(); err != nil { // an interrupted run may have left something
		return err
	}
	folder, err := r.output("workspace/run", "tools")
	if err != nil {
		return err
	}
	set("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	figures := filepath.Join(os.TempDir(), os.Getenv("CLUSTER_NAME")+"-figures")
	set("FIGURES", figures)
	_ = os.Remove(figures)
	defer func() {
		err = errors.Join(err, destroy())
		measured, _ := os.ReadFile(figures) // there is none if no test has run
		fmt.Printf("%s", measured)
	}()
	if err := r.do("workspace/run", "production"); err != nil {
		return err
	}
	tests := []string{"./production"}
	if r.short {
		tests = append(tests, "-short")
	}
	return r.goTest(tests...)
}

func (r *run) run() (err error) {
	if err := r.clean(); err != nil { // an interrupted run may have left something
		return err
	}
	for _, product := range []string{r.product, r.other} {
		if product == "" {
			continue
		}
		if err := r.do("workspace/run", "images", "--product", product); err != nil { // kept for the next run
			return err
		}
	}
	tools := []string{"tools"}
	if r.product == "minikube" {
		tools = append(tools, r.product)
	}
	folder, err := r.output("workspace/run", tools...)
	if err != nil {
		return err
	}
	set("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	if err := r.asOnANewMachine(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.clean()) }()
	if err := r.makeNeighbour(); err != nil {
		return fmt.Errorf("make the foreign cluster: %w", err)
	}
	before, err := inventory.Take()
	if err != nil {
		return err
	}
	set("BEFORE", strings.Join(before, "\n"))
	if err := r.do("./deploy.sh"); err != nil {
		return err
	}
	if r.beside != "" {
		if err := r.deployToBoth(); err != nil {
			return err
		}
	}
	return r.test()
}

func (r *run) test() error {
	e2e, loop := []string{"./e2e", "-parallel=8"}, []string{"./loop"} // e2e's parallel tests only wait
	if r.short {
		e2e, loop = append(e2e, "-short"), append(loop, "-short")
	}
	if err := r.goTest(e2e...); err != nil {
		return err
	}
	if !r.short {
		if err := r.goTest("./mutants"); err != nil {
			return err
		}
		if err := r.goTest("./newservice"); err != nil {
			return err
		}
	}
	if r.other != "" {
		if err := r.otherBeside(); err != nil {
			return err
		}
	}
	if !r.short {
		if err := r.do("workspace/run", "need", "chromium", "chromium"); err != nil {
			return err
		}
	}
	if err := r.goTest(loop...); err != nil {
		return err
	}
	if err := r.goTest("./teardown"); err != nil || r.short {
		return err
	}
	return r.do("make", "test-machines")
}

// clean removes this cluster and the foreign one.
func (r *run) clean() error {
	neighbour := r.command("./deploy.sh", "--destroy")
	neighbour.Env = append(os.Environ(), "CLUSTER_NAME="+os.Getenv("NEIGHBOUR"))
	return errors.Join(r.do("./deploy.sh", "--destroy"), neighbour.Run())
}

// asOnANewMachine removes the workaround for a Docker that cannot start privileged containers, unless there are
// containers that may need it, and then installs it again if it is needed.
func (r *run) asOnANewMachine() error {
	containers, err := r.output("docker", "ps", "--all", "--quiet")
	if err != nil {
		return err
	}
	if os.Getuid() == 0 && containers == "" {
		if err := r.do("workspace/run", "privileged", "remove"); err != nil {
			return err
		}
	}
	return r.do("workspace/run", "privileged", "install")
}

// makeNeighbour makes the foreign cluster by hand, with ctlptl alone and the variables that ctlptl needs on this
// machine, and stops it. It becomes minikube's active profile, unless there is another one.
func (r *run) makeNeighbour() error {
	name := os.Getenv("NEIGHBOUR")
	describe := func(args ...string) (string, error) {
		command := r.command("workspace/run", append([]string{"describe"}, args...)...)
		command.Env = append(os.Environ(), "CLUSTER_NAME="+name)
		command.Stdout = nil
		said, err := command.Output()
		return string(said), err
	}
	said, err := describe("--json")
	if err != nil {
		return err
	}
	var neighbour target.Target
	if err := yaml.Unmarshal([]byte(said), &neighbour); err != nil {
		return err
	}
	definition, err := describe("--ctlptl")
	if err != nil {
		return err
	}
	_, cluster, _ := strings.Cut(definition, "\n---\n")
	var object map[string]any
	if err := yaml.Unmarshal([]byte(cluster), &object); err != nil {
		return err
	}
	delete(object, "registry")
	data, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	version, err := r.output("docker", "version", "--format", "{{.Server.APIVersion}}")
	if err != nil {
		return err
	}
	current, _ := r.output("kubectl", "config", "current-context") // there may be none
	apply := r.command("ctlptl", "apply", "-f", "-")
	apply.Stdin = bytes.NewReader(data)
	apply.Env = append(append(os.Environ(), neighbour.Environment...), "DOCKER_API_VERSION="+version)
	if err := apply.Run(); err != nil {
		return err
	}
	if current != "" { // ctlptl has changed the current context
		if err := r.do("kubectl", "config", "use-context", current); err != nil {
			return err
		}
	}
	stop := r.command("./deploy.sh", "--stop")
	stop.Env = append(os.Environ(), "CLUSTER_NAME="+name)
	if err := stop.Run(); err != nil {
		return err
	}
	if r.product == "minikube" && inventory.ActiveProfile() == "" {
		return r.do("minikube", "config", "set", "profile", neighbour.Cluster)
	}
	return nil
}

// deployToBoth deploys to this cluster and to the existing one at the same time.
func (r *run) deployToBoth() error {
	other := r.command("./deploy.sh")
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); name != "INVOICE_APP_PORT" && name != "REGISTRY_PORT" {
			other.Env = append(other.Env, variable)
		}
	}
	other.Env = append(other.Env, "CLUSTER_PRODUCT="+r.beside)
	if err := other.Start(); err != nil {
		return err
	}
	return errors.Join(r.do("./deploy.sh"), other.Wait())
}

// otherBeside tests a cluster of the other product beside this one, which must not change.
func (r *run) otherBeside() error {
	cluster, err := target.FromEnvironment(repository)
	if err != nil {
		return err
	}
	list, err := services.Read(repository)
	if err != nil {
		return err
	}
	pods := func() (string, error) {
		var all string
		for _, team := range list.Teams() {
			said, err := r.output("kubectl", "--context", cluster.Context, "--namespace", team.Name, "get", "pods",
				"--output=custom-columns=:.metadata.name,:.metadata.uid,:.status.containerStatuses[*].restartCount")
			if err != nil {
				return "", err
			}
			all += said + "\n"
		}
		return all, nil
	}
	before, err := pods()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	other := r.command(self, "--short", r.other)
	other.Dir = ""
	other.Env = append(os.Environ(), "BESIDE="+r.product, next("INVOICE_APP_PORT"), next("REGISTRY_PORT"))
	if err := other.Run(); err != nil {
		return fmt.Errorf("the cluster of %s: %w", r.other, err)
	}
	after, err := pods()
	if err == nil && after != before {
		err = fmt.Errorf("testing the other cluster changed the pods of %s, from:\n%s\nto:\n%s",
			cluster.Cluster, before, after)
	}
	return err
}

// limit returns the time limit of one package's tests.
func (r *run) limit() string {
	if r.product == "production" && !r.short {
		return "6h"
	}
	return "40m"
}

func (r *run) goTest(args ...string) error {
	command := r.command("go", append([]string{"test", "-count=1", "-timeout=" + r.limit(), "-v"}, args...)...)
	command.Dir = ""
	var output bytes.Buffer
	command.Stdout = io.MultiWriter(os.Stdout, &output)
	err := command.Run()
	if err != nil { // what follows removes the clusters, and says much about it
		failed := regexp.MustCompile(`(?m)^ *--- FAIL: .*$`).FindAllString(output.String(), -1)
		err = fmt.Errorf("%v: %w, see above:\n%s", command.Args, err, strings.Join(failed, "\n"))
	}
	return err
}

// command returns a command that runs in the repository. When the run is interrupted, it gets SIGTERM and can clean up.
func (r *run) command(name string, args ...string) *exec.Cmd {
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		name, _ = filepath.Abs(filepath.Join(repository, name))
	}
	ctx := r.ctx
	if slices.Contains(args, "--destroy") {
		ctx = context.WithoutCancel(ctx)
	}
	command := exec.CommandContext(ctx, name, args...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.Dir = repository
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	return command
}

func (r *run) do(name string, args ...string) error {
	command := r.command(name, args...)
	if err := command.Run(); err != nil {
		return fmt.Errorf("%v: %w", command.Args, err)
	}
	return nil
}

func (r *run) output(name string, args ...string) (string, error) {
	command := r.command(name, args...)
	command.Stdout = nil
	said, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w", command.Args, err)
	}
	return strings.TrimSpace(string(said)), nil
}

func set(name, value string)        { _ = os.Setenv(name, value) }
func setDefault(name, value string) { set(name, cmp.Or(os.Getenv(name), value)) }

// next returns an assignment of a variable, with the port that follows its current one.
func next(name string) string {
	port, _ := strconv.Atoi(os.Getenv(name))
	return fmt.Sprintf("%s=%d", name, port+1)
}
