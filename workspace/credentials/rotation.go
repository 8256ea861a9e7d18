package credentials

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

const rotator = "rotate-passwords" // of the passfiles' fields

// RotatePasswords takes a step in replacing the passwords of production's databases. After Add, the services have new
// passwords beside the present ones; after Use, the databases accept only the new ones; after Remove, the services have
// only those. Each step can be repeated. It refuses a step other than the next one, and a step that comes before every
// pod has noticed the last one.
func RotatePasswords(
	ctx context.Context, out io.Writer, cluster kubectl.Context, list services.List, step Rotation,
) error {
	for _, service := range list.Databases() {
		for _, role := range roles {
			p, err := getPassfile(ctx, cluster, service.Team, role)
			if err != nil {
				return err
			}
			if p.step == step { // a repetition
				continue
			}
			if err := p.mayTake(step, time.Now()); err != nil {
				return fmt.Errorf("%s/%s: %w", service.Team, p.name, err)
			}
			switch step {
			case Add:
				p.lines += newLine(role)
			case Remove:
				_, p.lines, _ = strings.Cut(p.lines, "\n")
			}
			p.step = step
			if err := p.apply(ctx, out); err != nil {
				return err
			}
		}
	}
	if step == Use {
		return DatabasePasswords(ctx, out, cluster, list)
	}
	return nil
}

// passfile is the Secret of a role in the namespace of the service.
type passfile struct {
	cluster         kubectl.Context
	namespace, name string
	lines           string
	step            Rotation  // the last one
	taken           time.Time // when it was
}

// annotation is the last step of the rotation.
const annotation = "workspace.example.com/rotation"

func getPassfile(ctx context.Context, cluster kubectl.Context, namespace, role string) (p passfile, err error) {
	p = passfile{cluster: cluster, namespace: namespace, name: "postgres-" + role}
	text, err := process.Output(cluster.Command(ctx, "--namespace="+namespace, "get", "secret", p.name,
		"--show-managed-fields", "--output=json"))
	if err != nil {
		return p, err
	}
	var found struct {
		Metadata struct {
			Annotations   map[string]string
			ManagedFields []struct {
				Manager string
				Time    time.Time
			}
		}
		Data map[string][]byte
	}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return p, err
	}
	p.lines = string(found.Data["passfile"])
	p.step = Rotation(found.Metadata.Annotations[annotation])
	for _, fields := range found.Metadata.ManagedFields {
		if fields.Manager == rotator {
			p.taken = fields.Time
		}
	}
	return p, nil
}

// password returns the password that the database should accept: the newest one, unless it is not used yet.
func (p passfile) password() string {
	lines := strings.Split(strings.TrimSuffix(p.lines, "\n"), "\n")
	line := lines[len(lines)-1]
	if p.step == Add {
		line = lines[0]
	}
	return line[strings.LastIndex(line, ":")+1:]
}

// mayTake reports why a step cannot be taken now.
func (p passfile) mayTake(step Rotation, now time.Time) error {
	next := map[Rotation]Rotation{"": Add, Remove: Add, Add: Use, Use: Remove}[p.step]
	if step != next {
		return fmt.Errorf("the next step is %s", next)
	}
	if at := p.taken.Add(delivery); p.step != "" && now.Before(at) {
		return fmt.Errorf("the last step reaches the pods within %s: wait until %s", delivery, at.Format(time.TimeOnly))
	}
	return nil
}

// apply writes the Secret.
func (p passfile) apply(ctx context.Context, out io.Writer) error {
	apply, err := p.cluster.Send(ctx, map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"metadata": map[string]any{
			"name": p.name, "namespace": p.namespace, "annotations": map[string]any{annotation: p.step},
		},
		"data": map[string]any{"passfile": []byte(p.lines)},
	}, "apply", "--server-side", "--force-conflicts", "--field-manager="+rotator)
	if err != nil {
		return err
	}
	return say(out, apply)
}
