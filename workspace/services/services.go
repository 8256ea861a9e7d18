// Package services reads services.yaml, the list of the product's services, and generates files from it.
package services

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is the list's path in the clone.
const File = "services.yaml"

// List is the content of services.yaml.
type List struct {
	Product  string    `yaml:"product"`
	Services []Service `yaml:"services"`
}

// Service is a program of the product. Its source is in the folder of the same name.
type Service struct {
	Name          string   `yaml:"name" json:"name"`
	Description   string   `yaml:"description" json:"description"` // label of the image
	Team          string   `yaml:"team" json:"team"`               // the owner; also names the namespace and the database
	Port          int      `yaml:"port" json:"port"`
	User          int      `yaml:"user" json:"user"`                   // the UID and GID of its pods
	Calls         []string `yaml:"calls" json:"calls"`                 // names of the services that it sends requests to
	Database      bool     `yaml:"database" json:"database"`           // has a database
	Public        bool     `yaml:"public" json:"public"`               // can be reached from outside the cluster
	Authenticated bool     `yaml:"authenticated" json:"authenticated"` // requires a token with its name as the audience
}

// Team is a team with its services.
type Team struct {
	Name     string
	Services []Service
}

// The namespaces of the platform in production. The entry's Deployment and Service have the name of its namespace.
const (
	Platform  = "platform"
	Databases = "databases"
	Entry     = "entry"
)

// postgresUser is the UID of the PostgreSQL pods.
const postgresUser = 10003

var (
	label = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)

	// reserved names belong to other images, folders, or Tilt resources.
	reserved = strings.Fields(`postgres victoria-metrics vmalert
		audit bench data docs go_live internal k8s offline test tools workspace
		platform passwords caller-keys unit-tests load monitoring saves`)

	// notATeam matches the namespaces of the platform and of Kubernetes.
	notATeam = regexp.MustCompile(
		`^(platform|databases|entry|monitoring|cnpg-system|object-store|default|kube-.*|local-path-storage)$`)
)

// Read reads services.yaml in the folder root.
func Read(root string) (List, error) {
	data, err := os.ReadFile(filepath.Join(root, File))
	if err != nil {
		return List{}, err
	}
	return Parse(data)
}

// Parse reads the content of services.yaml. Its error lists everything that is invalid.
func Parse(data []byte) (List, error) {
	var list List
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&list); err != nil {
		return List{}, fmt.Errorf("%s: %w", File, err)
	}
	if wrong := list.check(); wrong != nil {
		return List{}, fmt.Errorf("%s is invalid:\n%w", File, errors.Join(wrong...))
	}
	return list, nil
}

func (l List) check() (wrong []error) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf("  "+format, args...)) }
	const isLabel = "must be a DNS label of at most 40 characters: a-z, 0-9 and -, beginning with a letter"
	if !label.MatchString(l.Product) {
		complain("product %q %s", l.Product, isLabel)
	}
	names, ports, users, databases := map[string]bool{}, map[int]string{}, map[int]string{}, map[string]string{}
	var public []string
	for _, s := range l.Services {
		switch {
		case !label.MatchString(s.Name):
			complain("name %q %s", s.Name, isLabel)
		case slices.Contains(reserved, s.Name):
			complain("name %s is already used for an image, a folder or a Tilt resource: choose another name", s.Name)
		case names[s.Name]:
			complain("name %s is used twice: give each service a different name", s.Name)
		}
		names[s.Name] = true
		if s.Description == "" {
			complain("%s has no description: describe it in one line", s.Name)
		}
		switch {
		case !label.MatchString(s.Team):
			complain("team %q of %s %s", s.Team, s.Name, isLabel)
		case notATeam.MatchString(s.Team):
			complain("team %s of %s is the name of a system namespace: choose another name", s.Team, s.Name)
		}
		switch other := ports[s.Port]; {
		case s.Port < 1024 || s.Port > 65535:
			complain("port %d of %s must be from 1024 to 65535, because lower ports need privileges", s.Port, s.Name)
		case other != "":
			complain("port %d of %s is already used by %s: choose another port, because make run starts both on one machine",
				s.Port, s.Name, other)
		}
		ports[s.Port] = s.Name
		switch other := users[s.User]; {
		case s.User < 10000 || s.User > 65535:
			complain("user %d of %s must be from 10000 to 65535, because the admission policy rejects others", s.User, s.Name)
		case s.User == postgresUser:
			complain("user %d of %s is already used by PostgreSQL: choose another UID", s.User, s.Name)
		case other != "":
			complain("user %d of %s is already used by %s: choose another UID", s.User, s.Name, other)
		}
		users[s.User] = s.Name
		if other := databases[s.Team]; s.Database && other != "" {
			complain("%s and %s both have a database, but a team can have only one: move one service to a team other than %s",
				other, s.Name, s.Team)
		}
		if s.Database {
			databases[s.Team] = s.Name
		}
		if s.Public {
			public = append(public, s.Name)
		}
	}
	if len(public) != 1 {
		complain("exactly one service must be public, not %d (%s), because a cluster publishes one port",
			len(public), strings.Join(public, ", "))
	}
	for _, s := range l.Services {
		for _, callee := range s.Calls {
			if !names[callee] {
				complain("%s calls %q, which is not a service in this file: add it, or correct the name", s.Name, callee)
			}
		}
	}
	if len(wrong) == 0 {
		if _, err := l.ordered(); err != nil {
			complain("%w", err)
		}
	}
	return wrong
}

// ordered returns the services, each after the services that it calls.
func (l List) ordered() ([]Service, error) {
	var ordered []Service
	placed := map[string]bool{}
	for len(ordered) < len(l.Services) {
		before := len(ordered)
		for _, s := range l.Services {
			if !placed[s.Name] && !slices.ContainsFunc(s.Calls, func(callee string) bool { return !placed[callee] }) {
				ordered, placed[s.Name] = append(ordered, s), true
			}
		}
		if len(ordered) == before {
			var cycle []string
			for _, s := range l.Services {
				if !placed[s.Name] {
					cycle = append(cycle, s.Name)
				}
			}
			return nil, fmt.Errorf("some of %s call each other in a cycle: remove one of the calls", strings.Join(cycle, ", "))
		}
	}
	return ordered, nil
}

// Ordered returns the services in the order in which they can start: each after the services that it calls.
func (l List) Ordered() []Service {
	ordered, _ := l.ordered() // Parse checks this
	return ordered
}

// Names returns the services' names.
func (l List) Names() []string {
	var names []string
	for _, s := range l.Services {
		names = append(names, s.Name)
	}
	return names
}

// Find returns the service with this name.
func (l List) Find(name string) (Service, bool) {
	i := slices.IndexFunc(l.Services, func(s Service) bool { return s.Name == name })
	if i < 0 {
		return Service{}, false
	}
	return l.Services[i], true
}

// Public returns the service that can be reached from outside the cluster.
func (l List) Public() Service {
	i := slices.IndexFunc(l.Services, func(s Service) bool { return s.Public })
	return l.Services[i] // Parse checks this
}

// Callers returns the services that call the given one.
func (l List) Callers(of Service) (callers []Service) {
	for _, s := range l.Services {
		if slices.Contains(s.Calls, of.Name) {
			callers = append(callers, s)
		}
	}
	return callers
}

// Callees returns the services that the given one calls.
func (l List) Callees(of Service) (callees []Service) {
	for _, name := range of.Calls {
		callee, _ := l.Find(name)
		callees = append(callees, callee)
	}
	return callees
}

// Authenticated returns the names of the services that require a token.
func (l List) Authenticated() (names []string) {
	for _, s := range l.Services {
		if s.Authenticated {
			names = append(names, s.Name)
		}
	}
	return names
}

// Teams returns the teams, in the order of their first service.
func (l List) Teams() (teams []Team) {
	for _, s := range l.Services {
		i := slices.IndexFunc(teams, func(team Team) bool { return team.Name == s.Team })
		if i < 0 {
			i = len(teams)
			teams = append(teams, Team{Name: s.Team})
		}
		teams[i].Services = append(teams[i].Services, s)
	}
	return teams
}

// Databases returns the services that have a database, which has the name of their team.
func (l List) Databases() (all []Service) {
	for _, s := range l.Services {
		if s.Database {
			all = append(all, s)
		}
	}
	return all
}

// Group returns the name of the team's group in client certificates.
func (t Team) Group() string { return "team-" + t.Name }

// WithDatabase returns the team's service that has a database, if any.
func (t Team) WithDatabase() (Service, bool) {
	i := slices.IndexFunc(t.Services, func(s Service) bool { return s.Database })
	if i < 0 {
		return Service{}, false
	}
	return t.Services[i], true
}

// Variable returns the name of an environment variable about the service, such as INVOICE_APP_PORT.
func (s Service) Variable(about string) string {
	return strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")) + "_" + about
}
