// Package images fills the local image tags that a cluster is made from, which images.txt lists: it pulls the images,
// or builds them from Go modules and Debian packages, or reads them from a file that was written elsewhere.
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

const (
	// label of an image is what it was made from, so that a second run can tell: where it was pulled from, or the
	// hashes of what it was built from.
	label = "invoices.inputs"
	// patience is how long the first image, which is the smallest, may take to be pulled where it may be built as well.
	patience = time.Minute
)

// Images are those of a product's clusters.
type Images struct {
	console *process.Console
	paths   paths.Paths
	product string
	list    []image
}

// Open reads the list: IMAGE_LIST, or else images.txt.
func Open(console *process.Console, p paths.Paths, product string) (*Images, error) {
	list, err := readList(p)
	return &Images{console: console, paths: p, product: product, list: list}, err
}

// Ensure fills the tags of a product's clusters as Fill does.
func Ensure(ctx context.Context, console *process.Console, p paths.Paths, product, how string) error {
	images, err := Open(console, p, product)
	if err != nil {
		return err
	}
	return images.Fill(ctx, how)
}

// Fill does what is left to do for every tag to be filled: "pull" pulls, "source" builds, and "" takes what is there
// however it was made, pulls the rest, and builds what cannot be pulled.
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
	cannot := i.pull(ctx, missing, patience)
	if cannot == nil || ctx.Err() != nil {
		return cannot
	}
	i.console.Say("%v\nimages: what cannot be pulled is built from Go modules and Debian packages", cannot)
	if err := i.build(ctx, pulled|built); err != nil {
		return fmt.Errorf("images cannot be pulled, as said above, and: %w", err)
	}
	return nil
}

// Export writes the images to one file, to be carried elsewhere.
func (i *Images) Export(ctx context.Context, file string) error {
	missing, err := i.missing(ctx, i.all(), pulled|built)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s is not filled: run workspace/run images first", missing[0].tag)
	}
	var tags []string
	for _, image := range i.all() {
		tags = append(tags, image.tag)
	}
	return i.console.Step(ctx, fmt.Sprintf("writing %s to %s", strings.Join(tags, " "), file), "export",
		func(ctx context.Context, step *process.Step) error {
			return step.Run(process.Command(ctx, "docker", append([]string{"save", "--output", file}, tags...)...))
		})
}

// Load reads a file that Export has written.
func (i *Images) Load(ctx context.Context, file string) error {
	return i.console.Step(ctx, "reading "+file, "load", func(ctx context.Context, step *process.Step) error {
		return step.Run(process.Command(ctx, "docker", "load", "--input", file))
	})
}

// way is how an image can have been made.
type way int

const (
	pulled way = 1 << iota
	built
)

// all is the images of the product's clusters.
func (i *Images) all() []image { return of(i.list, i.product) }

// missing is those images that are not made in one of these ways, from what they should be made from now.
func (i *Images) missing(ctx context.Context, images []image, ways way) ([]image, error) {
	var missing []image
	for _, image := range images {
		from, err := madeFrom(ctx, image.tag)
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

// madeFrom is an image's label, or "" where there is no such image.
func madeFrom(ctx context.Context, tag string) (string, error) {
	return docker.InspectImage(ctx, tag, `{{index .Config.Labels "`+label+`"}}`)
}

// pull pulls images. The first may take as long as limit says, unless that is 0.
func (i *Images) pull(ctx context.Context, missing []image, limit time.Duration) error {
	for _, image := range missing {
		why := ""
		err := i.console.Step(ctx, image.tag+": pulling "+image.upstream, "pull-"+image.folder(),
			func(ctx context.Context, step *process.Step) error {
				if limit > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeoutCause(ctx, limit, fmt.Errorf("it has not ended within %s", limit))
					defer stop()
				}
				said, err := fill(ctx, step, image)
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

// fill fills a tag from where it is pulled from, and returns what Docker complained of.
func fill(ctx context.Context, step *process.Step, image image) (complaint string, err error) {
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
	command := process.Command(ctx, "docker", "build", "--label", label+"="+image.upstream, "--tag", image.tag, "-")
	command.Stdin = strings.NewReader("FROM " + image.upstream + "\n")
	return "", step.Run(command)
}

// missingHelper is a sentence about the program that Docker is to ask for passwords, where that is not there.
func missingHelper(complaint string) string {
	if !strings.Contains(complaint, "docker-credential-") {
		return ""
	}
	config, err := docker.ReadConfig()
	helper := config.MissingHelper()
	if err != nil || helper == "" {
		return ""
	}
	return fmt.Sprintf("\n%s names a program that is not there, %s: install it, or take its line out of the file",
		config.Path, helper)
}
