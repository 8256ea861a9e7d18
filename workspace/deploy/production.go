package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/crane"
	"go.yaml.in/yaml/v3"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/credentials"
	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/service"
)

const (
	rehearsal  = "k8s/overlays/rehearsal"
	operator   = "cloudnative-pg" // the image, and the folder in tools/
	operatorOf = "github.com/cloudnative-pg/cloudnative-pg"
	// upstream is the operator's image in its own manifest, without a tag.
	upstream = "ghcr.io/cloudnative-pg/cloudnative-pg"
)

// Production creates or starts the cluster and rehearses production on it: it applies the overlay
// k8s/overlays/rehearsal with images from the cluster's own registry. If fromScratch, it removes an existing cluster
// first.
func (d *Deployment) Production(ctx context.Context, fromScratch bool) error {
	if err := d.up(ctx, fromScratch); err != nil {
		return err
	}
	err := d.rehearse(ctx)
	if err != nil && ctx.Err() == nil {
		d.Console.Say("Diagnostics of the pods that are not ready follow; see %s for the rest", d.shown(d.Cluster.Evidence))
		if failed := os.MkdirAll(d.Cluster.Evidence, 0o755); failed != nil {
			return failed
		}
		d.collectEvidence(ctx)
		return fmt.Errorf("%w\nSee above, and %s. Fix the cause and run %s again; %[3]s --force starts over",
			err, d.shown(d.Cluster.Evidence), d.Cluster.Deploy)
	}
	if err != nil {
		return err
	}
	d.Console.Say(`
production is rehearsed on the cluster %[1]s; its entry is %[2]s. Next:
  export PATH="$(workspace/run tools):$PATH"
  kubectl --context %[1]s get pods --all-namespaces
  %[3]s --destroy`, d.Cluster.Context, d.Cluster.InvoiceAppURL, d.Cluster.Deploy)
	return nil
}

// rehearse deploys production to a running cluster.
func (d *Deployment) rehearse(ctx context.Context) error {
	c := d.Cluster
	r := production{Deployment: d, folder: d.Paths.Build("production", c.Name)}
	for _, step := range []struct {
		label, log string
		do         func(context.Context, *process.Step) error
	}{
		{"pushing images to " + r.registry(), "push", r.push},
		{"installing the operator of the databases", "operator", r.operator},
		{"creating namespaces and credentials", "credentials", r.credentials},
		{"applying " + rehearsal, "apply", r.apply},
		{"waiting for the databases", "databases", r.awaitDatabases},
		{"waiting for the services", "rollout", r.awaitWorkloads},
	} {
		if err := d.Console.Step(ctx, step.label, step.log, step.do); err != nil {
			return err
		}
	}
	return nil
}

// production is what the steps of a rehearsal share.
type production struct {
	*Deployment
	folder  string          // for generated kustomizations
	images  []overlayImage  // with the names in the cluster's registry
	objects []overlayObject // of the overlay
}

// overlayImage is an entry in the images of a kustomization.
type overlayImage struct {
	Name    string `yaml:"name"`
	NewName string `yaml:"newName"`
	NewTag  string `yaml:"newTag,omitempty"`
	Digest  string `yaml:"digest"`
}

// overlayObject is an object of the overlay, as YAML.
type overlayObject struct {
	text     string
	Kind     string
	Metadata struct{ Name, Namespace string }
}

func (p *production) registry() string { return fmt.Sprintf("localhost:%d", p.Cluster.RegistryPort) }

func (p *production) cluster() kubectl.Context { return kubectl.Context(p.Cluster.Context) }

// push pushes the images that the overlays name to the cluster's registry: it builds those of services; others were
// pulled or built before, see workspace/images/images.txt.
func (p *production) push(ctx context.Context, step *process.Step) error {
	architecture, err := service.Architecture(ctx)
	if err != nil {
		return err
	}
	for _, overlay := range []string{"k8s/overlays/production", rehearsal} {
		images, err := imagesOf(overlay)
		if err != nil {
			return err
		}
		for _, image := range images {
			found, isService := p.Paths.Services.Find(image.Name)
			var digest string
			if isService {
				built, err := service.BuildImage(ctx, found, p.Cluster.Images, p.registry(), architecture)
				if err != nil {
					return err
				}
				digest = built.Digest.String()
			} else if digest, err = p.pushLocal(ctx, image.Name); err != nil {
				return err
			}
			name := p.registry() + "/" + image.Name
			fmt.Fprintf(step, "%s@%s\n", name, digest)
			// The outer overlay finds the name that the inner one has given.
			p.images = append(p.images, overlayImage{image.NewName, name, image.NewTag, digest})
		}
	}
	return nil
}

func (p *production) pushLocal(ctx context.Context, name string) (digest string, err error) {
	ref, err := service.PushImage(ctx, p.Paths.Image(name), name, p.Cluster.Images, p.registry())
	if err != nil {
		return "", err
	}
	return crane.Digest(ref, crane.WithContext(ctx))
}

// imagesOf returns the images of a kustomization.
func imagesOf(folder string) ([]overlayImage, error) {
	file := filepath.Join(folder, "kustomization.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var kustomization struct{ Images []overlayImage }
	if err := yaml.Unmarshal(text, &kustomization); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return kustomization.Images, nil
}

// operator installs CloudNativePG from the manifest in its module.
func (p *production) operator(ctx context.Context, step *process.Step) error {
	digest, err := p.pushLocal(ctx, operator)
	if err != nil {
		return err
	}
	module := compile.Tools(operator)
	files, err := module.Files(ctx, p.Paths, operatorOf)
	if err != nil {
		return err
	}
	version, err := module.Version(ctx, p.Paths, operatorOf)
	if err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(files, "releases/cnpg-"+strings.TrimPrefix(version, "v")+".yaml"))
	if err != nil {
		return err
	}
	image := p.registry() + "/" + operator
	folder := filepath.Join(p.folder, "operator")
	err = write(folder, map[string]any{
		"resources":  []string{"operator.yaml"},
		"components": []string{p.relative(folder, "k8s/operator")},
		"images":     []overlayImage{{Name: upstream, NewName: image, Digest: digest}},
		// The operator starts this image in the databases' pods.
		"patches": []any{map[string]any{
			"target": map[string]any{"kind": "Deployment"},
			"patch": `[{"op": "replace", "path": "/spec/template/spec/containers/0/env/0", "value":
				{"name": "OPERATOR_IMAGE_NAME", "value": "` + image + "@" + digest + `"}}]`,
		}},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "operator.yaml"), manifest, 0o644); err != nil {
		return err
	}
	if err := p.applyFolder(ctx, step, folder); err != nil {
		return err
	}
	return step.Run(p.Cluster.Kubectl(ctx, "--namespace=cnpg-system", "rollout", "status", "deployment", "--timeout=5m"))
}

// credentials creates the overlay's namespaces, and in them what no manifest contains.
func (p *production) credentials(ctx context.Context, step *process.Step) error {
	if err := p.build(ctx, step); err != nil {
		return err
	}
	var namespaces []string
	for _, object := range p.objects {
		if object.Kind == "Namespace" {
			namespaces = append(namespaces, object.text)
		}
	}
	apply := p.Cluster.Kubectl(ctx, "apply", "--server-side", "--filename=-")
	apply.Stdin = strings.NewReader(strings.Join(namespaces, "\n---\n"))
	if err := step.Run(apply); err != nil {
		return err
	}
	if err := credentials.DatabasePasswords(ctx, step, p.cluster(), p.Paths.Services); err != nil {
		return err
	}
	if err := credentials.ObjectStore(ctx, step, p.cluster(), p.Paths.Services.Product); err != nil {
		return err
	}
	return credentials.Certificates{Cluster: p.cluster(), Services: p.Paths.Services}.Make(ctx, step)
}

// build builds the overlay with the images of the cluster's registry.
func (p *production) build(ctx context.Context, step *process.Step) error {
	folder := filepath.Join(p.folder, "overlay")
	err := write(folder, map[string]any{
		"resources":      []string{p.relative(folder, rehearsal)},
		"images":         p.images,
		"configurations": []string{"images.yaml"},
	})
	if err != nil {
		return err
	}
	fields, err := os.ReadFile("k8s/overlays/production/images.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "images.yaml"), fields, 0o644)
	}
	if err != nil {
		return err
	}
	text, err := step.Output(p.Cluster.Kubectl(ctx, "kustomize", folder))
	if err != nil {
		return err
	}
	p.objects = nil
	for document := range strings.SplitSeq(text, "\n---\n") {
		object := overlayObject{text: document}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			return err
		}
		p.objects = append(p.objects, object)
	}
	return nil
}

func (p *production) apply(ctx context.Context, step *process.Step) error {
	return p.applyFolder(ctx, step, filepath.Join(p.folder, "overlay"))
}

func (p *production) applyFolder(ctx context.Context, step *process.Step, folder string) error {
	// Objects like the operator's are too large for the annotation of a client-side apply.
	return step.Run(p.Cluster.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "--kustomize", folder))
}

// awaitDatabases waits until every database has all its instances, and survives the loss of one.
func (p *production) awaitDatabases(ctx context.Context, step *process.Step) error {
	kubectl := func(args ...string) error {
		return step.Run(p.Cluster.Kubectl(ctx, append([]string{"--namespace=databases"}, args...)...))
	}
	err := kubectl("wait", "clusters.postgresql.cnpg.io", "--all", "--for=condition=Ready", "--timeout=15m")
	if err != nil {
		return err
	}
	for _, service := range p.Paths.Services.Databases() {
		err := kubectl("wait", "failoverquorums.postgresql.cnpg.io/"+service.Team,
			"--for=jsonpath={.status.standbyNumber}=1", "--timeout=3m")
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitWorkloads waits until all workloads run what was applied.
func (p *production) awaitWorkloads(ctx context.Context, step *process.Step) error {
	for _, object := range p.objects {
		switch object.Kind {
		case "Deployment", "StatefulSet", "DaemonSet":
			err := step.Run(p.Cluster.Kubectl(ctx, "--namespace="+object.Metadata.Namespace, "rollout", "status",
				strings.ToLower(object.Kind)+"/"+object.Metadata.Name, "--timeout=10m"))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// relative returns the path of a folder of the clone, relative to another folder, as kustomize requires.
func (p *production) relative(from, to string) string {
	path, err := filepath.Rel(from, filepath.Join(p.Paths.Root, to))
	if err != nil {
		panic(err) // both are absolute
	}
	return path
}

// write writes a kustomization into a folder.
func write(folder string, kustomization map[string]any) error {
	kustomization["apiVersion"], kustomization["kind"] = "kustomize.config.k8s.io/v1beta1", "Kustomization"
	text, err := yaml.Marshal(kustomization)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "kustomization.yaml"), text, 0o644)
}
