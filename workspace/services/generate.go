package services

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// header is the first line of generated files.
const header = "# Generated from services.yaml by make generate; do not edit.\n"

const productionFolder = "k8s/overlays/production"

// The folders that contain a generated folder for each team, or for each team with a database.
const (
	teamsFolder       = "k8s/teams"
	databasesFolder   = "k8s/databases"
	developmentFolder = "k8s/overlays/development/databases"
)

//go:embed templates
var templates embed.FS

// files returns the content of all generated files, by path.
func (l List) files() map[string]string {
	files := map[string]string{
		".github/CODEOWNERS":                      l.fill("CODEOWNERS", l),
		"k8s/base/kustomization.yaml":             l.fill("base.yaml", l),
		"k8s/overlays/development/node-port.yaml": l.fill("node-port.yaml", l.Public()),
		productionFolder + "/autoscaling.yaml":    l.fill("autoscaling.yaml", l),
		productionFolder + "/services.yaml":       l.fill("production.yaml", l),
		databasesFolder + "/kustomization.yaml":   l.fill("databases.yaml", l),
		developmentFolder + "/kustomization.yaml": l.fill("development-databases.yaml", l),
	}
	for _, team := range l.Teams() {
		folder := teamsFolder + "/" + team.Name
		files[folder+"/kustomization.yaml"] = l.fill("team.yaml", team)
		files[folder+"/services.yaml"] = l.fill("services.yaml", struct {
			List
			Team Team
		}{l, team})
	}
	for _, service := range l.Databases() {
		production, development := databasesFolder+"/"+service.Team, developmentFolder+"/"+service.Team
		files[production+"/kustomization.yaml"] = l.fill("database.yaml", service)
		files[production+"/network-policy.yaml"] = l.fill("network-policy.yaml", service)
		files[development+"/kustomization.yaml"] = l.fill("development-database.yaml", service)
		files[development+"/network-policy.yaml"] = l.fill("development-network-policy.yaml", service)
	}
	maps.Copy(files, l.monitoring())
	return files
}

func (l List) fill(name string, data any) string {
	functions := template.FuncMap{"join": strings.Join}
	t := template.Must(template.New(name).Funcs(functions).ParseFS(templates, "templates/"+name))
	var text bytes.Buffer
	if err := t.Execute(&text, data); err != nil {
		panic(err) // the templates are embedded
	}
	return header + strings.TrimSuffix(strings.TrimSpace(text.String()), "\n---") + "\n"
}

// Generate writes the generated files that are out of date, and removes those of teams that no longer exist. It returns
// the paths of both.
func (l List) Generate(root string) ([]string, error) {
	stale, files, err := l.stale(root)
	if err != nil {
		return nil, err
	}
	for _, path := range stale {
		file := filepath.Join(root, path)
		content, wanted := files[path]
		if !wanted {
			if err := os.Remove(file); err != nil {
				return nil, err
			}
			_ = os.Remove(filepath.Dir(file)) // if it is empty now
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return stale, nil
}

// Check fails if a generated file is out of date.
func (l List) Check(root string) error {
	stale, _, err := l.stale(root)
	if err != nil || len(stale) == 0 {
		return err
	}
	return fmt.Errorf("these files do not match %s, run make generate: %s", File, strings.Join(stale, ", "))
}

// stale returns the paths of the generated files that are out of date or no longer needed, and all generated files.
func (l List) stale(root string) (paths []string, files map[string]string, err error) {
	files = l.files()
	for path, content := range files {
		found, err := os.ReadFile(filepath.Join(root, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if string(found) != content {
			paths = append(paths, path)
		}
	}
	for _, folder := range []string{teamsFolder, databasesFolder, developmentFolder} {
		found, failed := fs.Glob(os.DirFS(root), folder+"/*/*")
		err = errors.Join(err, failed)
		for _, path := range found {
			if _, wanted := files[path]; !wanted {
				paths = append(paths, path)
			}
		}
	}
	slices.Sort(paths)
	return paths, files, err
}
