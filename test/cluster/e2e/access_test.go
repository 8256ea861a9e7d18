package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"example.com/invoices/test/cluster/access"
)

// team is a team with one of its services, and another team with one of theirs.
type team struct {
	user, namespace, service string
	database                 bool
	other, othersService     string
}

func teams() (all []team) {
	listed := list.Teams()
	for i, one := range listed {
		other := listed[(i+1)%len(listed)]
		_, database := one.WithDatabase()
		all = append(all, team{one.Group(), one.Name, one.Services[0].Name, database, other.Name, other.Services[0].Name})
	}
	return all
}

// kubeconfig returns the file that ./deploy.sh has written for a team. For the platform and for a stranger, the same
// program creates one that is removed after the tests.
func kubeconfig(t *testing.T, who string) string {
	t.Helper()
	madeHere, ok := made[who]
	if !ok {
		return filepath.Join(cluster.Kubeconfigs, who)
	}
	file, err := madeHere()
	require.NoError(t, err)
	return file
}

var made = map[string]func() (string, error){
	"platform": sync.OnceValues(func() (string, error) { return makeKubeconfig("platform", "platform") }),
	"stranger": sync.OnceValues(func() (string, error) { return makeKubeconfig("stranger", "") }),
}

func makeKubeconfig(user, group string) (string, error) {
	file := filepath.Join(scratch, user)
	command := exec.Command("workspace/run", "make-kubeconfig", kubeContext, file, user, group)
	command.Dir = repository
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w:\n%s", command.Args, err, output)
	}
	return file, nil
}

// as returns a client with the real certificate of a user.
func as(t *testing.T, who string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(t, who))
	require.NoError(t, err)
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	return client
}

// Every user has exactly the permissions in the table: the API server is asked about each cell with the certificate of
// the cell's user.
func TestAccess(t *testing.T) {
	long(t)
	namespaced := namespacedResources(t)
	questions := map[string]map[access.Cell]bool{}
	for _, cell := range access.Cells(list) {
		name := schema.GroupResource{Group: cell.Group, Resource: strings.TrimSuffix(cell.Resource+"/"+cell.Subresource, "/")}
		isNamespaced, exists := namespaced[name]
		require.True(t, exists, "there is no %s, so refusing it proves nothing", name)
		// For RBAC, a Namespace is in itself.
		if !isNamespaced && cell.Resource != "namespaces" {
			cell.Namespace = ""
		}
		if questions[cell.Who] == nil {
			questions[cell.Who] = map[access.Cell]bool{}
		}
		questions[cell.Who][cell] = true
	}
	require.Len(t, questions, len(list.Teams())+2, "the teams, the platform and a stranger")

	for who, cells := range questions {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			client := as(t, who)
			ask := func(cell access.Cell) {
				attributes := &authorizationv1.ResourceAttributes{Namespace: cell.Namespace, Verb: cell.Verb,
					Group: cell.Group, Resource: cell.Resource, Subresource: cell.Subresource}
				if cell.Resource == "namespaces" {
					attributes.Name = cell.Namespace
				}
				review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(),
					&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
						ResourceAttributes: attributes}}, metav1.CreateOptions{})
				if assert.NoError(t, err) {
					assert.Equal(t, cell.Allowed, review.Status.Allowed, "%+v", cell)
				}
			}
			queue := make(chan access.Cell)
			var workers sync.WaitGroup
			for range 4 {
				workers.Go(func() {
					for cell := range queue {
						ask(cell)
					}
				})
			}
			for cell := range cells {
				queue <- cell
			}
			close(queue)
			workers.Wait()
		})
	}
}

// namespacedResources returns, for each resource and subresource of the API server, whether it is namespaced.
func namespacedResources(t *testing.T) map[schema.GroupResource]bool {
	t.Helper()
	_, lists, err := client.Discovery().ServerGroupsAndResources()
	require.NoError(t, err)
	namespaced := map[schema.GroupResource]bool{}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		require.NoError(t, err)
		for _, resource := range list.APIResources {
			namespaced[schema.GroupResource{Group: version.Group, Resource: resource.Name}] = resource.Namespaced
		}
	}
	return namespaced
}

// Teams and strangers have no permissions beyond the table.
func TestAccessEndsWithTheTable(t *testing.T) {
	long(t)
	everybody := []string{ // may ask for their own identity and permissions
		"create selfsubjectreviews.authentication.k8s.io",
		"create selfsubjectaccessreviews.authorization.k8s.io",
		"create selfsubjectrulesreviews.authorization.k8s.io",
	}
	everybodyElse := []string{"stranger"}
	for _, team := range list.Teams() {
		everybodyElse = append(everybodyElse, team.Group())
	}
	for _, who := range everybodyElse {
		t.Run(who, func(t *testing.T) {
			client := as(t, who)
			for _, namespace := range access.Namespaces(list) {
				review, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
					&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}},
					metav1.CreateOptions{})
				require.NoError(t, err)
				require.False(t, review.Status.Incomplete)
				may := map[string]bool{}
				for _, rule := range review.Status.ResourceRules {
					assert.Empty(t, rule.ResourceNames)
					for _, group := range rule.APIGroups {
						for _, resource := range rule.Resources {
							for _, verb := range rule.Verbs {
								may[verb+" "+schema.GroupResource{Group: group, Resource: resource}.String()] = true
							}
						}
					}
				}

				want := map[string]bool{}
				for _, entry := range everybody {
					want[entry] = true
				}
				for _, cell := range access.Cells(list) {
					if cell.Who == who && cell.Namespace == namespace && cell.Allowed {
						resource := strings.TrimSuffix(cell.Resource+"/"+cell.Subresource, "/")
						want[cell.Verb+" "+schema.GroupResource{Group: cell.Group, Resource: resource}.String()] = true
					}
				}
				assert.Equal(t, want, may, "in %s", namespace)
			}
		})
	}
}

var (
	dryRun       = []string{metav1.DryRunAll}
	dryRunCreate = metav1.CreateOptions{DryRun: dryRun}
	dryRunPatch  = metav1.PatchOptions{DryRun: dryRun}
)

// A team cannot extend its permissions. Each attempt with the team's certificate is refused; the same with one change,
// or with the platform's certificate, works.
func TestEscalation(t *testing.T) {
	long(t)
	for _, team := range teams() {
		t.Run(team.user, func(t *testing.T) {
			t.Parallel()
			me, platform := as(t, team.user), as(t, "platform")
			own := pods(t, team.namespace, team.service)[0]
			others := pods(t, team.other, team.othersService)[0]

			// try makes an attempt that must be refused, and then one that must work.
			try := func(name, refusal string, attempt, allowed func(ctx context.Context) error) {
				t.Run(name, func(t *testing.T) {
					assert.ErrorContains(t, attempt(t.Context()), refusal)
					assert.NoError(t, allowed(t.Context()))
				})
			}
			// notMine tries something that only the platform may do.
			notMine := func(name, what, namespace string, do func(ctx context.Context, client kubernetes.Interface) error) {
				where := ` in the namespace "` + namespace + `"`
				try(name, `User "`+team.user+`" cannot `+what+where,
					func(ctx context.Context) error { return do(ctx, me) },
					func(ctx context.Context) error { return do(ctx, platform) })
			}
			createPod := func(like corev1.Pod, change func(*corev1.Pod)) func(context.Context) error {
				return func(ctx context.Context) error {
					pod := podLike(like)
					change(pod)
					_, err := me.CoreV1().Pods(pod.Namespace).Create(ctx, pod, dryRunCreate)
					return err
				}
			}
			plain := createPod(own, func(*corev1.Pod) {})

			try("privileged pod", `violates PodSecurity "restricted:latest": privileged`,
				createPod(own, func(pod *corev1.Pod) {
					yes := true
					pod.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil
					pod.Spec.Containers[0].SecurityContext.Privileged = &yes
				}), plain)
			try("hostPath", `restricted volume type "hostPath"`,
				createPod(own, func(pod *corev1.Pod) {
					pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{
						HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
				}), plain)
			try("pod beside the other team's", `cannot create resource "pods" in API group "" in the namespace "`+team.other+`"`,
				createPod(others, func(*corev1.Pod) {}), plain)

			debug := func(pod corev1.Pod) func(context.Context) error {
				return func(ctx context.Context) error {
					_, err := me.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType,
						debugContainer(t, pod.Spec.Containers[0].Image), dryRunPatch, "ephemeralcontainers")
					return err
				}
			}
			try("container in the other team's pod",
				`cannot patch resource "pods/ephemeralcontainers" in API group "" in the namespace "`+team.other+`"`,
				debug(others), debug(own))

			service := func(externalIPs ...string) func(context.Context) error {
				return func(ctx context.Context) error {
					_, err := me.CoreV1().Services(team.namespace).Create(ctx, serviceWith(externalIPs...), dryRunCreate)
					return err
				}
			}
			try("external IP", anExternalIP, service("192.0.2.1"), service())

			for _, account := range []struct{ namespace, name string }{
				{team.other, team.othersService}, {team.namespace, team.service},
			} {
				notMine("token of "+account.name, `create resource "serviceaccounts/token" in API group ""`, account.namespace,
					func(ctx context.Context, client kubernetes.Interface) error {
						_, err := client.CoreV1().ServiceAccounts(account.namespace).CreateToken(ctx, account.name,
							&authenticationv1.TokenRequest{}, dryRunCreate)
						return err
					})
			}
			notMine("more rights", `create resource "rolebindings" in API group "rbac.authorization.k8s.io"`, team.namespace,
				func(ctx context.Context, client kubernetes.Interface) error {
					_, err := client.RbacV1().RoleBindings(team.namespace).Create(ctx, &rbacv1.RoleBinding{
						ObjectMeta: metav1.ObjectMeta{Name: "mine"},
						RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
						Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: team.user}},
					}, dryRunCreate)
					return err
				})
			if team.database {
				notMine("passwords", `get resource "secrets" in API group ""`, team.namespace,
					func(ctx context.Context, client kubernetes.Interface) error {
						_, err := client.CoreV1().Secrets(team.namespace).Get(ctx, "postgres-owner", metav1.GetOptions{})
						return err
					})
			}
			notMine("Pod Security label", `patch resource "namespaces" in API group ""`, team.namespace,
				func(ctx context.Context, client kubernetes.Interface) error {
					_, err := client.CoreV1().Namespaces().Patch(ctx, team.namespace, types.MergePatchType,
						[]byte(`{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}`), dryRunPatch)
					return err
				})
			notMine("default-deny", `delete resource "networkpolicies" in API group "networking.k8s.io"`, team.namespace,
				func(ctx context.Context, client kubernetes.Interface) error {
					return client.NetworkingV1().NetworkPolicies(team.namespace).Delete(ctx, "default-deny",
						metav1.DeleteOptions{DryRun: dryRun})
				})
			notMine("quota", `patch resource "resourcequotas" in API group ""`, team.namespace,
				func(ctx context.Context, client kubernetes.Interface) error {
					_, err := client.CoreV1().ResourceQuotas(team.namespace).Patch(ctx, "team", types.MergePatchType,
						[]byte(`{"spec": {"hard": {"pods": "1000"}}}`), dryRunPatch)
					return err
				})
		})
	}
}

// A team's kubeconfig works with kubectl in the team's own namespace only.
func TestTeamsKubeconfig(t *testing.T) {
	long(t)
	for _, team := range teams() {
		t.Run(team.user, func(t *testing.T) {
			t.Parallel()
			file := kubeconfig(t, team.user)
			info, err := os.Stat(file)
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o600), info.Mode())
			mustRun(t, command(t, "git", "check-ignore", file))

			kubectl := func(namespace string, arguments ...string) (string, error) {
				output, err := command(t, "kubectl",
					append([]string{"--kubeconfig=" + file, "--namespace=" + namespace}, arguments...)...).CombinedOutput()
				return string(output), err
			}
			for name, arguments := range map[string]func(service string) []string{
				"pods": func(string) []string { return []string{"get", "pods"} },
				"logs": func(service string) []string { return []string{"logs", "deployment/" + service, "--tail=1"} },
				"exec": func(string) []string { return []string{"exec", "postgres-0", "--container=postgres", "--", "true"} },
				"manifests": func(service string) []string { // of the team's own folder
					return []string{"apply", "--kustomize=k8s/base/" + service,
						"--server-side", "--force-conflicts", "--dry-run=server"}
				},
				"scale": func(service string) []string { return []string{"scale", "deployment/" + service, "--replicas=3"} },
			} {
				if name == "exec" && !team.database {
					continue // a service's image contains only the service
				}
				t.Run(name, func(t *testing.T) {
					output, err := kubectl(team.namespace, arguments(team.service)...)
					assert.NoError(t, err, output)
					output, err = kubectl(team.other, arguments(team.othersService)...)
					assert.Error(t, err)
					assert.Contains(t, output, "Error from server (Forbidden)")
				})
			}
		})
	}
}

func TestKubeconfigIsRenewedInTime(t *testing.T) {
	long(t)
	const user = "renewed"
	file := filepath.Join(t.TempDir(), user)
	run := func(environment ...string) (content string) {
		script := command(t, "workspace/run", "make-kubeconfig", kubeContext, file, user)
		script.Env = append(os.Environ(), environment...)
		output := mustRun(t, script)
		bytes, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.NotContains(t, output, "PRIVATE KEY")
		return string(bytes)
	}
	whoami := func() string {
		return mustRun(t, command(t, "kubectl", "--kubeconfig="+file,
			"auth", "whoami", "--output=jsonpath={.status.userInfo.username}"))
	}

	short := run("LIFETIME=3600")
	assert.Equal(t, user, whoami())
	long := run()
	assert.NotEqual(t, short, long, "renewed: it was valid for less than a day")
	assert.Equal(t, user, whoami())
	require.NoError(t, os.Chmod(file, 0o644))
	assert.Equal(t, long, run(), "kept: it is valid for days")
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())

	require.NoError(t, os.WriteFile(file,
		[]byte(strings.Replace(long, "https://127.0.0.1:", "https://localhost:", 1)), 0o600))
	assert.Equal(t, user, whoami())
	assert.NotContains(t, run(), "https://localhost:", "renewed: it had another server, although one that works")

	_, elsewhere := newForeignServer(t)
	foreign, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, foreign, 0o600))
	run()
	assert.Equal(t, user, whoami(), "renewed: it was for another cluster")

	requests, err := client.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, request := range requests.Items {
		assert.NotEqual(t, user+"-", request.GenerateName, "requests are removed")
	}
}
