// Package manifests checks the manifests in k8s/ as far as possible without a cluster.
package manifests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"example.com/invoices/test/cluster/access"
	"example.com/invoices/workspace/services"
)

const (
	repository = "../../.."
	folder     = repository + "/k8s/overlays"

	development = "development" // the only overlay with a single server for each database
	rehearsal   = "rehearsal"   // production on a local cluster
)

func readList(t *testing.T) services.List {
	t.Helper()
	list, err := services.Read(repository)
	require.NoError(t, err)
	return list
}

// kubernetesVersion is the version that the cluster runs. Some of kube-score's checks depend on it.
const kubernetesVersion = "v1.36"

func TestEveryOverlay(t *testing.T) {
	for _, overlay := range overlays(t) {
		t.Run(overlay, func(t *testing.T) {
			documents := build(t, filepath.Join(folder, overlay))
			objects := decodeStrictly(t, documents)

			t.Run("pods pass Pod Security restricted", func(t *testing.T) { podSecurity(t, overlay, objects) })
			t.Run("kube-score has no complaint", func(t *testing.T) { kubeScore(t, documents) })
			t.Run("namespaces enforce Pod Security restricted", func(t *testing.T) { namespaces(t, overlay, objects) })
			t.Run("teams' namespaces are bound by the admission policies", func(t *testing.T) { admission(t, overlay, objects) })
			t.Run("only the public service is published", func(t *testing.T) { doors(t, overlay, objects) })
			t.Run("Go's memory limit is 90 % of the container's", func(t *testing.T) { memoryLimits(t, teamsOnly(t, objects)) })
			t.Run("credentials stay where they belong", func(t *testing.T) { credentials(t, objects) })
			t.Run("callers identify themselves as their callees expect", func(t *testing.T) {
				if overlay == development {
					identity(t, objects)
				} else {
					certificates(t, objects)
				}
			})
			t.Run("logs are JSON", func(t *testing.T) {
				logging := bytes.Count(bytes.Join(documents, nil), []byte("LOG_FORMAT: json\n"))
				assert.Equal(t, len(readList(t).Services), logging, "services")
			})
			t.Run("a database's write-ahead log fits its volume", func(t *testing.T) { volumes(t, overlay, documents, objects) })
			t.Run("a team's objects and processes are limited", func(t *testing.T) { quotas(t, objects) })
			t.Run("images are pulled only if missing", func(t *testing.T) { pulling(t, objects) })
			t.Run("exceptions have a reason", func(t *testing.T) { exceptions(t, objects) })
		})
	}
}

// overlays returns the names of the overlays.
func overlays(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	require.Subset(t, names, []string{development, "production", rehearsal})
	return names
}

func build(t *testing.T, folder string) [][]byte {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	require.NoError(t, err)

	var documents [][]byte
	for _, resource := range resources.Resources() {
		document, err := resource.AsYAML()
		require.NoError(t, err)
		documents = append(documents, document)
	}
	require.NotEmpty(t, documents)
	return documents
}

// isExtension reports whether a document is an object of CloudNativePG, or registers an API. The tests do not have
// these types; the API server checks the fields of what workspace/run production applies.
func isExtension(document []byte) bool {
	return bytes.HasPrefix(document, []byte("apiVersion: postgresql.cnpg.io/")) ||
		bytes.HasPrefix(document, []byte("apiVersion: apiregistration.k8s.io/"))
}

// decodeStrictly fails on unknown and duplicate fields, which the API server would drop.
func decodeStrictly(t *testing.T, documents [][]byte) []runtime.Object {
	t.Helper()
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
		json.SerializerOptions{Yaml: true, Strict: true})

	var objects []runtime.Object
	for _, document := range documents {
		if isExtension(document) {
			continue
		}
		object, _, err := decoder.Decode(document, nil, nil)
		require.NoError(t, err, "%s", document)
		objects = append(objects, object)
	}
	return objects
}

type workload struct {
	metav1.Object
	template corev1.PodTemplateSpec
}

func workloads(objects []runtime.Object) []workload {
	var found []workload
	for _, object := range objects {
		switch object := object.(type) {
		case *appsv1.Deployment:
			found = append(found, workload{object, object.Spec.Template})
		case *appsv1.StatefulSet:
			found = append(found, workload{object, object.Spec.Template})
		}
	}
	return found
}

func podSecurity(t *testing.T, overlay string, objects []runtime.Object) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}

	found := workloads(objects)
	if overlay == development {
		require.Len(t, found, len(readList(t).Services)+databases(t), "the services and their databases")
	}
	require.GreaterOrEqual(t, len(found), len(readList(t).Services))
	for _, workload := range found {
		results := evaluator.EvaluatePod(restricted, &workload.template.ObjectMeta, &workload.template.Spec)
		verdict := policy.AggregateCheckResults(results)
		assert.True(t, verdict.Allowed, "%s: %s", workload.GetName(), verdict.ForbiddenDetail())
	}
}

// kubeScore runs kube-score, which has its own module.
func kubeScore(t *testing.T, documents [][]byte) {
	command := exec.Command("go", "-C", "../../../tools/kube-score", "tool", "kube-score", "score",
		"--kubernetes-version="+kubernetesVersion, "--exit-one-on-warning", "--output-format=ci",
		// This check wants Always, with which no pod restarts while the registry is down. Our images are named
		// by a digest, or by a tag that is a hash of their content.
		"--ignore-test=container-image-pull-policy", "-")
	documents = slices.DeleteFunc(slices.Clone(documents), func(document []byte) bool {
		// The operator creates the pods that these policies select.
		ofDatabases := bytes.Contains(document, []byte("\nkind: NetworkPolicy\n")) &&
			bytes.Contains(document, []byte("\n  namespace: databases\n"))
		return isExtension(document) || ofDatabases
	})
	command.Stdin = bytes.NewReader(bytes.Join(documents, []byte("---\n")))
	output, err := command.CombinedOutput()

	var complaints []string
	for line := range strings.Lines(string(output)) {
		if !strings.HasPrefix(line, "[OK]") && !strings.HasPrefix(line, "[SKIPPED]") {
			complaints = append(complaints, line)
		}
	}
	assert.NoError(t, err, "%s", strings.Join(complaints, ""))
	for _, name := range readList(t).Names() {
		assert.Contains(t, string(output), name)
	}
}

func namespaces(t *testing.T, overlay string, objects []runtime.Object) {
	var names []string
	for _, object := range objects {
		if namespace, ok := object.(*corev1.Namespace); ok {
			names = append(names, namespace.Name)
			assert.Equal(t, "restricted", namespace.Labels["pod-security.kubernetes.io/enforce"])
			assert.Equal(t, "latest", namespace.Labels["pod-security.kubernetes.io/enforce-version"])
		}
	}
	want := []string{"platform"}
	for _, team := range readList(t).Teams() {
		want = append(want, team.Name)
	}
	if overlay != development {
		assert.Subset(t, names, append(want, "databases"))
		return
	}
	assert.ElementsMatch(t, want, names)
}

// teamsOnly returns the workloads in the namespaces of teams.
func teamsOnly(t *testing.T, objects []runtime.Object) []workload {
	t.Helper()
	var names []string
	for _, team := range readList(t).Teams() {
		names = append(names, team.Name)
	}
	return slices.DeleteFunc(workloads(objects), func(w workload) bool {
		return !slices.Contains(names, w.GetNamespace())
	})
}

// admission compares the overlay's images with the parameter that it sets for the admission policies.
func admission(t *testing.T, overlay string, objects []runtime.Object) {
	var parameter *corev1.ConfigMap
	bound := map[string]string{}
	for _, object := range objects {
		switch object := object.(type) {
		case *corev1.Namespace:
			if object.Labels["team"] != "" {
				bound[object.Name] = object.Labels["team"]
			}
		case *corev1.ConfigMap:
			if object.Namespace == "platform" && object.Name == "admission" {
				parameter = object
			}
		}
	}
	want := map[string]string{}
	for _, team := range readList(t).Teams() {
		want[team.Name] = team.Name
	}
	assert.Equal(t, want, bound)
	require.NotNil(t, parameter, "the ConfigMap admission of the namespace platform")
	assert.NotEmpty(t, parameter.Data["advice"])
	allowed, err := regexp.Compile(parameter.Data["images"])
	require.NoError(t, err)

	for _, image := range images(teamsOnly(t, objects)) {
		switch overlay {
		case development:
			image = "localhost:5005/" + image // Tilt pushes it there
		case rehearsal:
			image = "localhost:5006/" + path.Base(image) // workspace/run production pushes it there
		}
		assert.NotRegexp(t, allowed, "elsewhere.example.com/"+image)
		if overlay != development && isUnreleased(image) {
			t.Logf("%s is not released, so production refuses it: make release", image)
			assert.NotRegexp(t, allowed, image)
			continue
		}
		assert.Regexp(t, allowed, image)
	}
}

// isUnreleased reports whether production has no digest of a service's image yet.
func isUnreleased(image string) bool { return strings.HasSuffix(image, ":unreleased") }

// Production's images are named by digest.
func TestProductionNamesDigests(t *testing.T) {
	for _, image := range images(workloads(decodeStrictly(t, build(t, filepath.Join(folder, "production"))))) {
		if isUnreleased(image) {
			continue // production's admission policy refuses it
		}
		assert.Regexp(t, `^[^@:]+@sha256:[0-9a-f]{64}$`, image)
	}
}

// Production names images of listed services, and of workspace/images/images.txt, only.
func TestProductionNamesListedServices(t *testing.T) {
	list, err := os.ReadFile(repository + "/workspace/images/images.txt")
	require.NoError(t, err)
	for _, overlay := range []string{"production", rehearsal} {
		text, err := os.ReadFile(filepath.Join(folder, overlay, "kustomization.yaml"))
		require.NoError(t, err)
		var kustomization struct{ Images []struct{ Name string } }
		require.NoError(t, yaml.Unmarshal(text, &kustomization))
		for _, image := range kustomization.Images {
			if slices.Contains(readList(t).Names(), image.Name) {
				continue
			}
			assert.Contains(t, string(list), "/"+image.Name+":local ",
				"%s is no service and not in images.txt: remove its entry from k8s/overlays/%s/kustomization.yaml",
				image.Name, overlay)
		}
	}
}

func images(workloads []workload) []string {
	var found []string
	for _, workload := range workloads {
		pod := workload.template.Spec
		for _, container := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
			found = append(found, container.Image)
		}
	}
	return found
}

// doors checks that in development the public Service can be reached from outside, and all others only from inside.
func doors(t *testing.T, overlay string, objects []runtime.Object) {
	list := readList(t)
	types := map[string]corev1.ServiceType{}
	for _, object := range objects {
		switch object := object.(type) {
		case *corev1.Service:
			if slices.ContainsFunc(list.Teams(), func(team services.Team) bool { return team.Name == object.Namespace }) {
				types[object.Namespace+"/"+object.Name] = object.Spec.Type
			}
		case *corev1.ResourceQuota:
			nodePorts := int64(0)
			if overlay == development && object.Namespace == list.Public().Team {
				nodePorts = 1
			}
			assert.Equal(t, nodePorts, object.Spec.Hard.Name("services.nodeports", "").Value(), object.Namespace)
			assert.Zero(t, object.Spec.Hard.Name("services.loadbalancers", "").Sign(), object.Namespace)
		}
	}

	want := map[string]corev1.ServiceType{}
	for _, service := range list.Services {
		name := service.Team + "/" + service.Name
		want[name] = corev1.ServiceTypeClusterIP
		if service.Public && overlay == development {
			want[name] = corev1.ServiceTypeNodePort
		}
		if service.Database && overlay == development {
			want[service.Team+"/postgres"] = ""
		}
	}
	assert.Equal(t, want, types)
}

// databases returns the number of services with a database.
func databases(t *testing.T) (count int) {
	for _, service := range readList(t).Services {
		if service.Database {
			count++
		}
	}
	return count
}

// memoryLimits compares GOMEMLIMIT with the memory limit, since a manifest cannot derive one from the other.
func memoryLimits(t *testing.T, workloads []workload) {
	found := 0
	for _, workload := range workloads {
		if workload.GetName() == "postgres" {
			continue
		}
		pod := workload.template.Spec
		for _, container := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
			found++
			want := fmt.Sprintf("%dMiB", container.Resources.Limits.Memory().Value()*9/10>>20)
			set := map[string]string{}
			for _, variable := range container.Env {
				set[variable.Name] = variable.Value
			}
			assert.Equal(t, want, set["GOMEMLIMIT"], "%s of %s", container.Name, workload.GetName())
		}
	}
	assert.GreaterOrEqual(t, found, len(readList(t).Services), "each service, and the init containers of some")
}

func credentials(t *testing.T, objects []runtime.Object) {
	for _, object := range objects {
		_, isSecret := object.(*corev1.Secret)
		assert.False(t, isSecret, "passwords are created at deploy time")
	}

	for _, workload := range workloads(objects) {
		if workload.GetNamespace() == "kube-system" { // an extension of the API server
			continue
		}
		pod := workload.template.Spec
		assert.NotContains(t, []string{"", "default"}, pod.ServiceAccountName, workload.GetName())
		require.NotNil(t, pod.AutomountServiceAccountToken, workload.GetName())
		assert.False(t, *pod.AutomountServiceAccountToken, workload.GetName())
		for _, container := range pod.Containers {
			for _, mount := range container.VolumeMounts {
				assert.NotEqual(t, "owner", mount.Name, "%s must not have the owner's password", container.Name)
			}
		}
	}
}

// identity compares the tokens that callers' pods request with those that their callees expect. They are in files of
// different teams, which must agree.
func identity(t *testing.T, objects []runtime.Object) {
	list := readList(t)
	configurations := map[string]map[string]string{}
	for _, object := range objects {
		if object, ok := object.(*corev1.ConfigMap); ok {
			configurations[object.Labels["app.kubernetes.io/name"]] = object.Data
		}
	}
	tokens := map[string]map[string]*corev1.ServiceAccountTokenProjection{} // by account and audience
	for _, workload := range workloads(objects) {
		for _, volume := range workload.template.Spec.Volumes {
			if volume.Projected == nil {
				continue
			}
			for _, source := range volume.Projected.Sources {
				account := "system:serviceaccount:" + workload.GetNamespace() + ":" + workload.template.Spec.ServiceAccountName
				if tokens[account] == nil {
					tokens[account] = map[string]*corev1.ServiceAccountTokenProjection{}
				}
				tokens[account][source.ServiceAccountToken.Audience] = source.ServiceAccountToken
			}
		}
	}

	expiration := int64(600)
	want := map[string]map[string]*corev1.ServiceAccountTokenProjection{}
	for _, callee := range list.Services {
		if !callee.Authenticated {
			continue
		}
		configuration := configurations[callee.Name]
		assert.Regexp(t, "^https://", configuration["CALLER_ISSUER"], callee.Name)
		assert.Equal(t, callee.Name, configuration["CALLER_AUDIENCE"], callee.Name)
		for _, caller := range list.Callers(callee) {
			account := "system:serviceaccount:" + caller.Team + ":" + caller.Name
			assert.Equal(t, account, configuration["CALLER_ACCOUNT"], "%s admits one account", callee.Name)
			if want[account] == nil {
				want[account] = map[string]*corev1.ServiceAccountTokenProjection{}
			}
			want[account][callee.Name] = &corev1.ServiceAccountTokenProjection{
				Audience: callee.Name, ExpirationSeconds: &expiration, Path: "token"}
		}
	}
	assert.Equal(t, want, tokens, "a token for each service that requires one, and for no other")
}

// certificates checks that in production every service has a certificate, requires those of its callers, and has no
// token.
func certificates(t *testing.T, objects []runtime.Object) {
	list := readList(t)
	configurations := map[string]map[string]string{}
	for _, object := range objects {
		if object, ok := object.(*corev1.ConfigMap); ok {
			configurations[object.Labels["app.kubernetes.io/name"]] = object.Data
		}
	}
	name := func(s services.Service) string { return s.Name + "." + s.Team + ".svc" }
	for _, service := range list.Services {
		configuration := configurations[service.Name]
		assert.Equal(t, "/run/secrets/tls", configuration["TLS_FOLDER"], service.Name)
		var callers []string
		if service.Public {
			callers = append(callers, name(services.Service{Name: services.Entry, Team: services.Entry}))
		}
		for _, caller := range list.Callers(service) {
			callers = append(callers, name(caller))
		}
		assert.Equal(t, strings.Join(callers, ","), configuration["CALLER_NAMES"], service.Name)
		for _, callee := range list.Callees(service) {
			assert.Equal(t, fmt.Sprintf("https://%s:%d", name(callee), callee.Port), configuration[callee.Variable("URL")])
		}
		for key := range configuration {
			assert.NotRegexp(t, "TOKEN|CALLER_(KEYS|AUDIENCE|ACCOUNT|ISSUER)", key, service.Name)
		}
	}
	for _, workload := range workloads(objects) {
		switch workload.GetNamespace() {
		case "kube-system", "object-store": // a rehearsal's own, which no service calls
			continue
		}
		secrets := map[string]string{}
		for _, volume := range workload.template.Spec.Volumes {
			assert.Nil(t, volume.Projected, "%s has no token", workload.GetName())
			if volume.Secret != nil {
				secrets[volume.Name] = volume.Secret.SecretName
			}
		}
		assert.Equal(t, workload.GetName()+"-tls", secrets["tls"])
		for _, container := range workload.template.Spec.Containers {
			mount := corev1.VolumeMount{Name: "tls", MountPath: "/run/secrets/tls", ReadOnly: true}
			assert.Contains(t, container.VolumeMounts, mount, workload.GetName())
		}
	}
}

// volumes compares the maximum sizes of PostgreSQL's write-ahead log with the claim: the server stops if the volume has
// no space for the log.
func volumes(t *testing.T, overlay string, documents [][]byte, objects []runtime.Object) {
	type database struct {
		parameters map[string]string
		claim      resource.Quantity
	}
	found := map[string]database{}
	for _, document := range documents {
		var cluster struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				PostgreSQL struct{ Parameters map[string]string }
				Storage    struct{ Size resource.Quantity }
			}
		}
		if isExtension(document) && bytes.Contains(document, []byte("\nkind: Cluster\n")) {
			require.NoError(t, yaml.Unmarshal(document, &cluster))
			found[cluster.Metadata.Name] = database{cluster.Spec.PostgreSQL.Parameters, cluster.Spec.Storage.Size}
		}
	}
	parameters := map[string]map[string]string{}
	for _, object := range objects {
		if object, ok := object.(*corev1.ConfigMap); ok && object.Data["postgresql.conf"] != "" {
			parameters[object.Namespace] = map[string]string{}
			for _, match := range regexp.MustCompile(`(?m)^(\w+) = '?([^'\n]*)'?$`).
				FindAllStringSubmatch(object.Data["postgresql.conf"], -1) {
				parameters[object.Namespace][match[1]] = match[2]
			}
		}
	}
	for _, object := range objects {
		if set, ok := object.(*appsv1.StatefulSet); ok && parameters[set.Namespace] != nil {
			claim := set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests.Storage()
			found[set.Namespace] = database{parameters[set.Namespace], *claim}
		}
	}
	assert.Len(t, found, databases(t), "databases of %s", overlay)
	for name, database := range found {
		for _, parameter := range []string{"max_wal_size", "max_slot_wal_keep_size"} {
			megabytes, err := strconv.ParseInt(strings.TrimSuffix(database.parameters[parameter], "MB"), 10, 64)
			require.NoError(t, err, "%s of %s", parameter, name)
			assert.LessOrEqual(t, megabytes<<20, database.claim.Value()/4, "%s of %s", parameter, name)
		}
	}
}

// Production's databases have the settings of development's, except where the operator or the replication requires
// others.
func TestDatabasesHaveTheSameSettings(t *testing.T) {
	text, err := os.ReadFile(repository + "/k8s/database/cluster.yaml")
	require.NoError(t, err)
	var cluster struct {
		Spec struct {
			PostgreSQL struct{ Parameters map[string]string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &cluster))
	parameters := cluster.Spec.PostgreSQL.Parameters
	conf, err := os.ReadFile(repository + "/k8s/base/postgres/postgresql.conf")
	require.NoError(t, err)
	settings := regexp.MustCompile(`(?m)^(\w+) = '?([^'\n]*)'?$`).FindAllStringSubmatch(string(conf), -1)
	require.NotEmpty(t, settings)
	for _, setting := range settings {
		switch name, value := setting[1], setting[2]; name {
		case "listen_addresses", "unix_socket_directories", "hba_file": // the operator's
		case "max_slot_wal_keep_size": // a replica may lag
		default:
			assert.Equal(t, value, parameters[name], name)
		}
	}
}

// quotas checks that the quotas count every kind that a team can create, that the objects of all teams fit into etcd,
// and that their processes fit onto a node.
func quotas(t *testing.T, objects []runtime.Object) {
	const (
		mebi      = 1 << 20
		largest   = mebi * 3 / 2 // size of an object in etcd
		etcd      = 2048 * mebi  // etcd's default quota
		perObject = "count/"
	)
	var all, pods int64
	counted := map[string]corev1.ResourceList{}
	for _, object := range objects {
		if quota, ok := object.(*corev1.ResourceQuota); ok {
			counted[quota.Namespace] = quota.Spec.Hard
			pods += quota.Spec.Hard.Pods().Value()
			for name, count := range quota.Spec.Hard {
				if strings.HasPrefix(string(name), perObject) {
					all += count.Value() * largest
				}
			}
		}
	}
	kinds := 0
	for _, cell := range access.Cells(readList(t)) {
		if cell.Verb != "create" || !cell.Allowed || cell.Subresource != "" || !strings.HasPrefix(cell.Who, "team-") {
			continue
		}
		kinds++
		kind := schema.GroupResource{Group: cell.Group, Resource: cell.Resource}
		assert.Contains(t, counted[cell.Namespace],
			corev1.ResourceName(perObject+kind.String()), "the quota of %s", cell.Namespace)
	}
	assert.NotZero(t, kinds)
	assert.Less(t, all, int64(etcd*2/3), "the rest is for the cluster itself: lower the counts in k8s/team/quotas.yaml")

	definition, err := os.ReadFile(repository + "/ctlptl.yaml")
	require.NoError(t, err)
	match := regexp.MustCompile(`podPidsLimit: (\d+)`).FindSubmatch(definition)
	require.NotNil(t, match)
	processes, err := strconv.ParseInt(string(match[1]), 10, 64)
	require.NoError(t, err)
	assert.LessOrEqual(t, pods*processes, int64(32768-2048), "Linux's default limit of processes, without the node's: "+
		"lower the pods in k8s/team/quotas.yaml, or podPidsLimit in both files of ctlptl")
}

// pulling checks that a pod can restart while the registry is down, if the node has its image.
func pulling(t *testing.T, objects []runtime.Object) {
	for _, workload := range workloads(objects) {
		pod := workload.template.Spec
		for _, container := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
			assert.Equal(t, corev1.PullIfNotPresent, container.ImagePullPolicy, "%s of %s", container.Name, workload.GetName())
		}
	}
}

func exceptions(t *testing.T, objects []runtime.Object) {
	for _, object := range objects {
		annotations := object.(metav1.Object).GetAnnotations()
		if annotations["kube-score/ignore"] != "" {
			assert.NotEmpty(t, annotations["kube-score/ignore-reason"], "%s", object.(metav1.Object).GetName())
		}
	}
}
