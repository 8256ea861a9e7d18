package credentials

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

const (
	certificateLifetime = 90 * 24 * time.Hour
	// delivery is how long after a change of a Secret every pod uses it: the kubelet updates a pod's files within a
	// minute and a half, and the programs read them again.
	delivery = 2 * time.Minute

	manager = "make-certificates" // of the Secrets' fields
)

// Certificates are the certificates of a cluster: of its services, databases and entry. Two authorities issue them, one
// for what runs in the cluster and one for callers from outside, whose keys are in the namespace platform.
type Certificates struct {
	Cluster  kubectl.Context
	Services services.List
	// Hosts are the names or IP addresses of the entry, for callers from outside. If there are none, its certificate
	// keeps those that it has, or is for localhost.
	Hosts     []string
	Renew     bool     // renew all certificates, even those that are valid for long
	Authority Rotation // step in the rotation of the authority of what runs in the cluster
	Callers   Rotation // step in the rotation of the authority of callers

	now time.Time
}

// secret is a Secret that holds certificates.
type secret struct {
	namespace, name string
	labels          map[string]any
	subject         *subject // of its pair tls.crt and tls.key; nil if it only has ca.crt
	trusts          string   // name of the authority in its ca.crt
}

// found is the part of a Secret in the cluster that matters here.
type found struct {
	Metadata struct {
		ResourceVersion string
		ManagedFields   []struct {
			Manager string
			Time    time.Time
		}
	}
	Data map[string][]byte
}

// Make creates the missing authorities and certificates, and renews the certificates of which a third of the lifetime
// is left, or less. It restarts the entry if its certificates have changed. Keys are sent to the cluster only: they are
// never printed, never on a command line and never in a file on this machine.
func (c Certificates) Make(ctx context.Context, out io.Writer) error {
	if c.now.IsZero() {
		c.now = time.Now()
	}
	if len(c.Hosts) == 0 {
		hosts, err := c.currentHosts(ctx)
		if err != nil {
			return err
		}
		c.Hosts = hosts
	}
	authorities := map[string]authority{}
	for name, step := range map[string]Rotation{"authority": c.Authority, "callers": c.Callers} {
		a, err := c.authority(ctx, name, step)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		authorities[name] = a
	}
	entry := sha256.New()
	for _, s := range c.secrets() {
		data, err := c.update(ctx, out, s, authorities)
		if err != nil {
			return err
		}
		if s.namespace == services.Entry {
			entry.Write(slices.Concat(data["tls.crt"], data["ca.crt"]))
		}
	}
	if err := c.restartEntry(ctx, out, hex.EncodeToString(entry.Sum(nil))[:16]); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(authorities)) {
		if err := c.explain(out, name, authorities[name]); err != nil {
			return err
		}
	}
	return nil
}

// secrets returns the Secrets that pods use.
func (c Certificates) secrets() (all []secret) {
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	both := append(slices.Clone(server), x509.ExtKeyUsageClientAuth)
	pair := func(namespace, name, part string, usage []x509.ExtKeyUsage, hosts ...string) secret {
		return secret{namespace, name + "-tls", labels(c.Services.Product, part),
			&subject{hosts[0], hosts, usage, certificateLifetime}, "authority"}
	}
	for _, s := range c.Services.Services {
		usage := server
		if len(s.Calls) > 0 {
			usage = both
		}
		all = append(all, pair(s.Team, s.Name, s.Name, usage, inCluster(s.Name, s.Team)...))
	}
	for _, team := range c.Services.Teams() {
		if _, found := team.WithDatabase(); !found {
			continue
		}
		var hosts []string
		for _, service := range []string{"-rw", "-r", "-ro", "-pooler"} {
			short := team.Name + service
			hosts = append(hosts, append(inCluster(short, services.Databases), short, short+"."+services.Databases)...)
		}
		database := pair(services.Databases, team.Name+"-server", "postgres", server, hosts...)
		database.labels["cnpg.io/reload"] = "" // CloudNativePG then uses a new certificate without a restart
		all = append(all, database)
	}
	return append(all,
		pair(services.Entry, services.Entry, services.Entry, both,
			append(inCluster(services.Entry, services.Entry), c.Hosts...)...),
		secret{services.Entry, "callers-ca", labels(c.Services.Product, services.Entry), nil, "callers"})
}

// inCluster returns the DNS names of a Service.
func inCluster(name, namespace string) []string {
	return []string{name + "." + namespace + ".svc", name + "." + namespace + ".svc.cluster.local"}
}

// currentHosts returns the names of the entry in its certificate, without those inside the cluster.
func (c Certificates) currentHosts(ctx context.Context) (hosts []string, err error) {
	current, err := c.get(ctx, services.Entry, services.Entry+"-tls")
	if err != nil {
		return nil, err
	}
	certificates, err := parse(current.Data["tls.crt"])
	if err != nil {
		return nil, err
	}
	for _, certificate := range certificates {
		hosts = append(hosts, certificate.DNSNames...)
		for _, address := range certificate.IPAddresses {
			hosts = append(hosts, address.String())
		}
	}
	inside := inCluster(services.Entry, services.Entry)
	hosts = slices.DeleteFunc(hosts, func(host string) bool { return slices.Contains(inside, host) })
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1"}
	}
	return hosts, nil
}

// authority returns an authority, which it creates or rotates.
func (c Certificates) authority(ctx context.Context, name string, step Rotation) (authority, error) {
	title := c.Services.Product + " " + name
	current, err := c.get(ctx, services.Platform, name)
	if err != nil {
		return nil, err
	}
	a, command := authority(current.Data), "replace"
	changed := current.Data == nil
	if changed {
		command = "create" // fails if somebody else has just done it
		if a, err = newAuthority(title, c.now); err != nil {
			return nil, err
		}
	}
	if step != "" {
		rotated, err := a.rotate(step, title, c.now, func() (time.Time, error) { return c.settled(ctx, name, a) })
		if err != nil {
			return nil, err
		}
		changed = changed || rotated
	}
	if !changed {
		return a, nil
	}
	send, err := c.Cluster.Send(ctx, map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"metadata": map[string]any{
			"name": name, "namespace": services.Platform, "labels": labels(c.Services.Product, name),
			"resourceVersion": current.Metadata.ResourceVersion, // "replace" fails if it has changed since
		},
		"type": "kubernetes.io/tls",
		"data": a,
	}, command)
	if err != nil {
		return nil, err
	}
	return a, process.Run(send)
}

// settled returns the time at which every pod uses what the authority has issued so far. It fails if a Secret is not up
// to date.
func (c Certificates) settled(ctx context.Context, name string, a authority) (settled time.Time, err error) {
	for _, s := range c.secrets() {
		if s.trusts != name {
			continue
		}
		current, err := c.get(ctx, s.namespace, s.name)
		if err != nil {
			return settled, err
		}
		if !bytes.Equal(current.Data["ca.crt"], a["ca.crt"]) ||
			s.subject != nil && !a.issued(current.Data["tls.crt"], current.Data["tls.key"], *s.subject, c.now, 0) {
			return settled, fmt.Errorf("the last step was interrupted: finish it with workspace/run make-certificates %s",
				c.Cluster)
		}
		for _, fields := range current.Metadata.ManagedFields {
			if ready := fields.Time.Add(delivery); fields.Manager == manager && ready.After(settled) {
				settled = ready
			}
		}
	}
	return settled, nil
}

// update brings a Secret up to date, and returns its content.
func (c Certificates) update(ctx context.Context, out io.Writer, s secret, authorities map[string]authority) (
	map[string][]byte, error,
) {
	current, err := c.get(ctx, s.namespace, s.name)
	if err != nil {
		return nil, err
	}
	a := authorities[s.trusts]
	want := map[string][]byte{"ca.crt": a["ca.crt"]}
	kind, until := "Opaque", ""
	if s.subject != nil {
		kind = "kubernetes.io/tls"
		want["tls.crt"], want["tls.key"] = current.Data["tls.crt"], current.Data["tls.key"]
		if c.Renew || !a.issued(want["tls.crt"], want["tls.key"], *s.subject, c.now, certificateLifetime/3) {
			if want["tls.crt"], want["tls.key"], err = a.issue(*s.subject, c.now); err != nil {
				return nil, err
			}
		}
		certificates, err := parse(want["tls.crt"])
		if err != nil {
			return nil, err
		}
		until = ", valid until " + certificates[0].NotAfter.UTC().Format(time.DateOnly)
	}
	if maps.EqualFunc(current.Data, want, bytes.Equal) {
		fmt.Fprintf(out, "%s/%s is up to date%s\n", s.namespace, s.name, until)
		return want, nil
	}
	apply, err := c.Cluster.Send(ctx, map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"metadata":   map[string]any{"name": s.name, "namespace": s.namespace, "labels": s.labels},
		"type":       kind,
		"data":       want,
	}, "apply", "--server-side", "--force-conflicts", "--field-manager="+manager)
	if err != nil {
		return nil, err
	}
	if err := process.Run(apply); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "%s/%s is new%s\n", s.namespace, s.name, until)
	return want, nil
}

// restartEntry replaces the entry's pods, one after the other, if they have older certificates: unlike the services and
// databases, it reads the files only when it starts. It does nothing if there is no entry yet.
func (c Certificates) restartEntry(ctx context.Context, out io.Writer, version string) error {
	const annotation = "certificates"
	kubectl := func(args ...string) (string, error) {
		return process.Output(c.Cluster.Command(ctx, append([]string{"--namespace=" + services.Entry}, args...)...))
	}
	running, err := kubectl("get", "deployment", services.Entry, "--ignore-not-found",
		"--output=jsonpath={.metadata.name} {.spec.template.metadata.annotations."+annotation+"}")
	if err != nil || running == "" || running == services.Entry+" "+version {
		return err
	}
	if _, err := kubectl("patch", "deployment", services.Entry, "--field-manager="+manager,
		`--patch={"spec":{"template":{"metadata":{"annotations":{"`+annotation+`":"`+version+`"}}}}}`); err != nil {
		return err
	}
	if _, err := kubectl("rollout", "status", "deployment", services.Entry, "--timeout=10m"); err != nil {
		return err
	}
	fmt.Fprintln(out, services.Entry+" has restarted with the new certificates")
	return nil
}

// explain prints how the rotation of an authority continues, and warns of its end.
func (c Certificates) explain(out io.Writer, name string, a authority) error {
	certificates, err := parse(a["tls.crt"])
	if err != nil {
		return err
	}
	flag := map[string]string{"authority": "--rotate-authority", "callers": "--rotate-callers"}[name]
	command := fmt.Sprintf("workspace/run make-certificates %s %s", c.Cluster, flag)
	switch left := certificates[0].NotAfter.Sub(c.now); {
	case a.next() == Use:
		fmt.Fprintf(out, "%s: a new one is trusted, too. After %s: %s=use\n", name,
			c.now.Add(delivery).Local().Format(time.TimeOnly), command)
	case a.next() == Remove && name == "callers":
		fmt.Fprintf(out, "%s: the new one issues all certificates. When each caller has a new one: %s=remove\n",
			name, command)
	case a.next() == Remove:
		fmt.Fprintf(out, "%s: the new one has issued all certificates. After %s: %s=remove\n", name,
			c.now.Add(delivery).Local().Format(time.TimeOnly), command)
	case left < authorityLifetime/10:
		fmt.Fprintf(out, "%s: expires on %s; replace it before: %s=add\n", name,
			certificates[0].NotAfter.UTC().Format(time.DateOnly), command)
	}
	return nil
}

// get returns a Secret, or an empty one if there is none.
func (c Certificates) get(ctx context.Context, namespace, name string) (s found, err error) {
	text, err := process.Output(c.Cluster.Command(ctx, "--namespace="+namespace, "get", "secret", name,
		"--ignore-not-found", "--show-managed-fields", "--output=json"))
	if err != nil || text == "" {
		return s, err
	}
	return s, json.Unmarshal([]byte(text), &s)
}

// ClientCertificate writes a certificate with which a caller from outside may use the entry: the files tls.crt, tls.key
// and ca.crt (which verifies the entry) of a folder. Existing files are kept if the certificate is for this name and
// valid for at least another day; otherwise they are replaced. The key is generated here, and never printed.
func ClientCertificate(ctx context.Context, out io.Writer, cluster kubectl.Context, folder, name string,
	lifetime time.Duration,
) error {
	c, now := Certificates{Cluster: cluster}, time.Now()
	callers, err := c.get(ctx, services.Platform, "callers")
	if err != nil {
		return err
	}
	inside, err := c.get(ctx, services.Platform, "authority")
	if err != nil {
		return err
	}
	if callers.Data == nil || inside.Data == nil {
		return fmt.Errorf("%s has no authority that could issue a certificate: run workspace/run make-certificates %s first",
			cluster, cluster)
	}
	who := subject{name: name, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, lifetime: lifetime}
	files := map[string][]byte{}
	for _, file := range []string{"tls.key", "tls.crt", "ca.crt"} {
		files[file], _ = os.ReadFile(filepath.Join(folder, file))
	}
	state := "is still valid"
	if !authority(callers.Data).issued(files["tls.crt"], files["tls.key"], who, now, renewal) ||
		!bytes.Equal(files["ca.crt"], inside.Data["ca.crt"]) {
		state = "is new"
		files["ca.crt"] = inside.Data["ca.crt"]
		if files["tls.crt"], files["tls.key"], err = authority(callers.Data).issue(who, now); err != nil {
			return err
		}
	}
	for file, content := range files {
		if err := replace(filepath.Join(folder, file), content); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, filepath.Join(folder, "tls.crt"), state)
	return nil
}
