// Package images provides the local images that a cluster is made from, which images.txt lists: it pulls them,
// builds them from Go modules and Debian packages, or loads them from a file exported on another machine.
package images

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// patience limits the pull of the first and smallest image if images may be built instead.
const patience = time.Minute

// Images are the images for clusters of one product: kind, minikube or production.
type Images struct {
	console *process.Console
	paths   paths.Paths
	product string
	list    []image
}

// Open reads the list of images from IMAGE_LIST, by default images.txt.
func Open(console *process.Console, p paths.Paths, product string) (*Images, error) {
	list, err := readList(p)
	return &Images{console: console, paths: p, product: product, list: list}, err
}

// Ensure opens a product's images and fills their tags.
func Ensure(ctx context.Context, console *process.Console, p paths.Paths, product, how string) error {
	images, err := Open(console, p, product)
	if err != nil {
		return err
	}
	return images.Fill(ctx, how)
}

// Fill provides the missing or outdated images: "pull" pulls them, "source" builds them, and "" accepts existing
// images of either kind, pulls the rest, and builds what cannot be pulled.
func (i *Images) Fill(ctx context.Context, how string) error {
	switch how {
	case "pull":
		missing, err := i.missing(ctx, i.all(), pulled)
		if err != nil {
			return err
		}
		return i.pull(ctx, missing, 0)
	case "source":
		return i.build(ctx, built)
	}
	missing, err := i.missing(ctx, i.all(), pulled|built)
	if err != nil || len(missing) == 0 {
		return err
	}
	pullErr := i.pull(ctx, missing, patience)
	if pullErr == nil || ctx.Err() != nil {
		return pullErr
	}
	i.console.Say("%v\nimages: building the remaining ones from Go modules and Debian packages", pullErr)
	if err := i.build(ctx, pulled|built); err != nil {
		return fmt.Errorf("pulling images failed (see above), and so did building them: %w", err)
	}
	return nil
}

// Export writes the images to one file, for use on another machine.
func (i *Images) Export(ctx context.Context, file string) error {
	missing, err := i.missing(ctx, i.all(), pulled|built)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("image %s is missing or outdated: run workspace/run images first", missing[0].tag)
	}
	var tags []string
	for _, image := range i.all() {
		tags = append(tags, image.tag)
	}
	return i.console.Step(ctx, fmt.Sprintf("exporting %s to %s", strings.Join(tags, " "), file), "export",
		func(ctx context.Context, step *process.Step) error {
			return step.Run(process.Command(ctx, "docker", append([]string{"save", "--output", file}, tags...)...))
		})
}

// Load loads images from a file written by Export.
func (i *Images) Load(ctx context.Context, file string) error {
	return i.console.Step(ctx, "loading "+file, "load", func(ctx context.Context, step *process.Step) error {
		return step.Run(process.Command(ctx, "docker", "load", "--input", file))
	})
}

// way is a set of ways in which an image was made.
type way int

const (
	pulled way = 1 << iota
	built
)

// all returns the images for the product's clusters.
func (i *Images) all() []image { return of(i.list, i.product) }

// missing returns the images that do not exist, are outdated, or were made in none of these ways.
func (i *Images) missing(ctx context.Context, images []image, ways way) ([]image, error) {
	var missing []image
	for _, image := range images {
		from, err := i.madeFrom(ctx, image.tag)
		if err != nil {
			return nil, err
		}
		if ways&pulled != 0 && from == image.upstream {
			continue
		}
		if ways&built != 0 && from != "" {
			inputs, err := i.inputs(ctx, image)
			if err != nil {
				return nil, err
			}
			if from == inputs {
				continue
			}
		}
		missing = append(missing, image)
	}
	return missing, nil
}

// madeFrom returns the label that records what an image was made from, to detect outdated images: the name it was
// pulled from, or the hashes of its build inputs. It returns "" if there is no such image.
func (i *Images) madeFrom(ctx context.Context, tag string) (string, error) {
	return docker.InspectImage(ctx, tag, `{{index .Config.Labels "`+i.paths.InputsLabel()+`"}}`)
}

// pull pulls images. A limit other than 0 is a timeout for the first one.
func (i *Images) pull(ctx context.Context, missing []image, limit time.Duration) error {
	for _, image := range missing {
		why := ""
		err := i.console.Step(ctx, image.tag+": pulling "+image.upstream, "pull-"+image.folder(),
			func(ctx context.Context, step *process.Step) error {
				if limit > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeoutCause(ctx, limit, fmt.Errorf("timed out after %s", limit))
					defer stop()
				}
				said, err := i.fill(ctx, step, image)
				why = said
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return err
			})
		limit = 0
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w%s", err, missingHelper(why))
	}
	return nil
}

// fill pulls an image and tags it. If that fails, complaint is Docker's standard error.
func (i *Images) fill(ctx context.Context, step *process.Step, image image) (complaint string, err error) {
	id, err := docker.InspectImage(ctx, image.upstream, "{{.Id}}")
	if err != nil {
		return "", err
	}
	if id == "" {
		var stderr bytes.Buffer
		command := process.Command(ctx, "docker", "pull", "--quiet", image.upstream)
		command.Stderr = &stderr
		err := step.Run(command)
		_, _ = step.Write(stderr.Bytes())
		if err != nil {
			return stderr.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
		}
	}
	command := process.Command(ctx, "docker", "build",
		"--label", i.paths.InputsLabel()+"="+image.upstream, "--tag", image.tag, "-")
	command.Stdin = strings.NewReader("FROM " + image.upstream + "\n")
	return "", step.Run(command)
}

// missingHelper returns advice about a missing credential helper, if Docker complained about one.
func missingHelper(complaint string) string {
	if !strings.Contains(complaint, "docker-credential-") {
		return ""
	}
	config, err := docker.ReadConfig()
	helper := config.MissingHelper()
	if err != nil || helper == "" {
		return ""
	}
	return fmt.Sprintf("\n%s refers to %s, which is not installed: install it, or remove that line from the file",
		config.Path, helper)
}
