// Package mutants removes the protections of the cluster one at a time, and expects the test that is meant to notice to
// fail. The protections are objects on a real cluster, and checks in the code that verifies callers.
package mutants

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"example.com/invoices/test/cluster/target"
	"example.com/invoices/workspace/services"
)

// A mutant is an object to delete or change, after which something is permitted that must not be, or refused that must
// not be.
type mutant struct {
	object  string // in the notation [namespace/]kind/name
	patch   string // a JSON patch; "": the object is deleted
	catcher string // the test of package e2e that must fail, as a pattern for -run
}

// mutantsOf returns the mutants for a list of services.
func mutantsOf(list services.List) map[string]mutant {
	caller, _ := list.Find("invoice-app")
	callee, _ := list.Find("payment-provider")
	invoicing, payments := caller.Team, callee.Team
	inInvoicing, inPayments := "TestAdmission$/"+invoicing+"/", "TestAdmission$/"+payments+"/"
	mutants := map[string]mutant{
		// Network edges.
		"invoicing denies nothing by default": {invoicing + "/networkpolicy/default-deny", "",
			"TestNetworkEdges/stranger_in_" + invoicing},
		"payments denies nothing by default": {payments + "/networkpolicy/default-deny", "",
			"TestNetworkEdges/stranger_in_" + payments},
		"invoice-app lets nobody in": {invoicing + "/networkpolicy/invoice-app-from-anyone", "",
			"TestNetworkEdges/stranger$"},
		"invoice-app reaches nobody": {invoicing + "/networkpolicy/invoice-app", "",
			"TestNetworkEdges/^invoice-app"},
		"invoice-app reaches anybody": {invoicing + "/networkpolicy/invoice-app",
			`[{"op": "add", "path": "/spec/egress/-", "value": {}}]`, "TestNetworkEdges/^invoice-app"},
		"payment-provider lets nobody in": {payments + "/networkpolicy/payment-provider",
			`[{"op": "remove", "path": "/spec/ingress"}]`, "TestNetworkEdges/^invoice-app"},
		"payment-provider lets anybody in": {payments + "/networkpolicy/payment-provider",
			`[{"op": "remove", "path": "/spec/ingress/0/from"}]`, "TestNetworkEdges/stranger$"},
		"payment-provider lets invoice-app's labels in": {payments + "/networkpolicy/payment-provider",
			`[{"op": "replace", "path": "/spec/ingress/0/from/0/namespaceSelector", "value": {}}]`,
			"TestNetworkEdges/stranger_with_the_labels"},
		"payment-provider reaches anybody": {payments + "/networkpolicy/payment-provider",
			`[{"op": "add", "path": "/spec/egress/-", "value": {}}]`, "TestNetworkEdges/^payment-provider"},
		"the invoices' database lets nobody in": {invoicing + "/networkpolicy/postgres", "",
			"TestNetworkEdges/^invoice-app"},
		"the payments' database lets nobody in": {payments + "/networkpolicy/postgres", "",
			"TestNetworkEdges/^payment-provider"},
		"the invoices' database lets anybody in": {invoicing + "/networkpolicy/postgres",
			`[{"op": "remove", "path": "/spec/ingress/0/from"}]`, "TestNetworkEdges/stranger$"},
		"the payments' database lets anybody in": {payments + "/networkpolicy/postgres",
			`[{"op": "remove", "path": "/spec/ingress/0/from"}]`, "TestNetworkEdges/stranger$"},
		"the database reaches anybody": {payments + "/networkpolicy/postgres",
			`[{"op": "add", "path": "/spec/egress", "value": [{}]}]`, "TestNetworkEdges/postgres_of_" + payments},

		// Access.
		"team invoicing has no rights": {invoicing + "/rolebinding/team", "", "TestAccess$/team-" + invoicing},
		"team payments has no rights":  {payments + "/rolebinding/team", "", "TestAccess$/team-" + payments},
		"the platform has no rights":   {"clusterrolebinding/platform", "", "TestAccess$/platform"},
		"everybody is team payments": {payments + "/rolebinding/team",
			`[{"op": "replace", "path": "/subjects/0/name", "value": "system:authenticated"}]`, "TestAccess$/stranger"},
		"team payments is also team invoicing": {invoicing + "/rolebinding/team",
			fmt.Sprintf(`[{"op": "add", "path": "/subjects/-", "value":
				{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "team-%s"}}]`, payments),
			"TestEscalation/team-" + payments + "/container_in_the_other"},
		"team invoicing reads passwords": mayAlso(invoicing, "", "secrets", "get",
			"TestEscalation/team-"+invoicing+"/passwords"),
		"team invoicing creates tokens": mayAlso(invoicing, "", "serviceaccounts/token", "create",
			"TestEscalation/team-"+invoicing+"/token_of_invoice-app"),
		"team invoicing deletes policies": mayAlso(invoicing, "networking.k8s.io", "networkpolicies", "delete",
			"TestEscalation/team-"+invoicing+"/default-deny"),
		"team invoicing raises its quota": mayAlso(invoicing, "", "resourcequotas", "patch",
			"TestEscalation/team-"+invoicing+"/quota"),
		"team invoicing changes its namespace": mayAlso(invoicing, "", "namespaces", "patch",
			"TestEscalation/team-"+invoicing+"/Pod_Security_label"),
		"team invoicing has an unlisted permission": mayAlso(invoicing, "coordination.k8s.io", "leases", "get",
			"TestAccessEndsWithTheTable/team-"+invoicing),

		// Quotas and limits.
		"payments may have a NodePort": {payments + "/resourcequota/team",
			`[{"op": "remove", "path": "/spec/hard/services.nodeports"}]`,
			"TestOnlyThePublicServiceIsPublished/payment-provider/NodePort"},
		"payments may have a load balancer": {payments + "/resourcequota/team",
			`[{"op": "remove", "path": "/spec/hard/services.loadbalancers"}]`,
			"TestOnlyThePublicServiceIsPublished/payment-provider/LoadBalancer"},
		"payments has all Service addresses": uncounted(payments, "services"),
		"payments fills etcd":                uncounted(payments, "configmaps"),
		"payments has any number of budgets": uncounted(payments, "poddisruptionbudgets.policy"),
		"containers of invoicing have no bounds": {invoicing + "/limitrange/team", "",
			"TestContainersHaveBounds/" + invoicing},
		"containers of payments have no bounds": {payments + "/limitrange/team", "",
			"TestContainersHaveBounds/" + payments},

		// Pod Security and admission policies.
		"invoicing has no Pod Security": {"namespace/" + invoicing,
			`[{"op": "remove", "path": "/metadata/labels/pod-security.kubernetes.io~1enforce"}]`,
			"TestEscalation/team-" + invoicing + "/hostPath"},
		"payments has no Pod Security": {"namespace/" + payments,
			`[{"op": "remove", "path": "/metadata/labels/pod-security.kubernetes.io~1enforce"}]`,
			"TestOnlyThePublicServiceIsPublished/payment-provider/hostPort"},
		"the policies do not know invoicing": {"namespace/" + invoicing,
			`[{"op": "remove", "path": "/metadata/labels/team"}]`, inInvoicing + "low_user$"},
		"the policies do not know payments": {"namespace/" + payments,
			`[{"op": "remove", "path": "/metadata/labels/team"}]`, inPayments + "low_user$"},
		"any image":              withoutRule("team-pods", 0, inPayments+"^image_from_elsewhere"),
		"a writable root":        withoutRule("team-pods", 1, inPayments+"writable_root"),
		"any user":               withoutRule("team-pods", 2, inPayments+"no_user"),
		"any group":              withoutRule("team-pods", 3, inPayments+"^another_low_group"),
		"any field of a pod":     withoutRule("team-pods", 4, inPayments+"^priority_class"),
		"any value of a field":   withoutRule("team-pods", 5, inPayments+"^every_toleration"),
		"any grace period":       {"validatingadmissionpolicybinding/team-deletions", "", inPayments + "long_deletion"},
		"any field of a service": withoutRule("team-services", 0, "TestAdmissionOfServices/"+payments+"/another_name"),
		"any address":            withoutRule("team-services", 1, "TestAdmissionOfServices/"+payments+"/an_address"),
		"no disruption":          withoutRule("team-budgets", 0, "TestAdmissionOfBudgets/"+payments+"/^none$"),
		"broken pods stay":       withoutRule("team-budgets", 1, "TestAdmissionOfBudgets/"+payments+"/broken_pods"),
		"two budgets for a pod":  withoutRule("team-budgets", 2, "TestAdmissionOfBudgets/"+payments+"/a_second_budget"),
		"any external IP":        {"validatingadmissionpolicybinding/team-services", "", inPayments + "external_IP"},
		"pods are not bound":     {"validatingadmissionpolicybinding/team-pods", "", inPayments + "low_user$"},
		"nobody is warned": {"validatingadmissionpolicybinding/team-workloads", "",
			"TestAdmissionWarnsOfDeployments/" + payments},
		"no image is named": {"platform/configmap/admission", "", inPayments + "let_in"},
		"every image is named": {"platform/configmap/admission",
			`[{"op": "replace", "path": "/data/images", "value": "."}]`, inPayments + "image_that_looks_local"},
		"any token": {"platform/configmap/admission",
			`[{"op": "replace", "path": "/data/audiences", "value": "payment-provider, vault"}]`,
			inPayments + "token_for_another"},
		"init containers are not checked": {"validatingadmissionpolicy/team-pods",
			`[{"op": "replace", "path": "/spec/variables/2/expression", "value": "variables.pod.containers"}]`,
			inPayments + "init_image"},
		"volumes are not checked": {"validatingadmissionpolicy/team-pods",
			`[{"op": "replace", "path": "/spec/variables/4/expression", "value":
			"variables.containers.filter(c, !c.image.matches(params.data.images)).map(c, c.name + ' (' + c.image + ')')"}]`,
			inPayments + "volume_of_an_image"},
		"ephemeral containers are not checked": {"validatingadmissionpolicybinding/team-pods",
			`[{"op": "replace", "path": "/spec/matchResources/resourceRules/0/resources", "value": ["pods"]}]`,
			inPayments + "ephemeral_container"},
		"changes are not checked": {"validatingadmissionpolicybinding/team-pods",
			`[{"op": "replace", "path": "/spec/matchResources/resourceRules/0/operations", "value": ["CREATE"]}]`,
			inPayments + "another_image_later"},
	}
	return mutants
}

// mayAlso gives a team another permission.
func mayAlso(team, group, resource, verb, catcher string) mutant {
	return mutant{team + "/role/team", fmt.Sprintf(
		`[{"op": "add", "path": "/rules/-", "value": {"apiGroups": [%q], "resources": [%q], "verbs": [%q]}}]`,
		group, resource, verb), catcher}
}

// uncounted removes a kind from a team's quota.
func uncounted(team, kind string) mutant {
	return mutant{team + "/resourcequota/team", fmt.Sprintf(`[{"op": "remove", "path": "/spec/hard/count~1%s"}]`, kind),
		"TestEveryKindIsCounted/" + team + "/" + kind}
}

// withoutRule removes one validation of a policy.
func withoutRule(policy string, index int, catcher string) mutant {
	return mutant{"validatingadmissionpolicy/" + policy,
		fmt.Sprintf(`[{"op": "remove", "path": "/spec/validations/%d"}]`, index), catcher}
}

// patience limits the time that a change takes to have an effect, for example a network policy on the node.
const patience = time.Minute

// TestMutants tries MUTANTS mutants (default 3; or all), chosen by MUTANTS_SEED, which it prints. If it is interrupted,
// running ./deploy.sh restores the objects.
func TestMutants(t *testing.T) {
	cluster, err := target.FromEnvironment("../../..")
	require.NoError(t, err)
	list, err := services.Read("../../..")
	require.NoError(t, err)
	mutants := mutantsOf(list)
	live := compile(t)
	run := func(stdin []byte, arguments ...string) ([]byte, error) {
		command := exec.Command("kubectl", append([]string{"--context=" + cluster.Context}, arguments...)...)
		command.Stdin = bytes.NewReader(stdin)
		return command.CombinedOutput()
	}
	kubectl := func(t *testing.T, arguments ...string) []byte {
		t.Helper()
		output, err := run(nil, arguments...)
		require.NoError(t, err, "kubectl %v:\n%s", arguments, output)
		return output
	}

	var table []string
	for _, name := range choose(t, mutants) {
		m, caught := mutants[name], "not caught"
		t.Run(name, func(t *testing.T) {
			if lapse, code := lapses[name]; code {
				lapse.run(t)
				caught = lapse.catcher
				return
			}
			namespace, object := "", m.object
			if strings.Count(object, "/") == 2 {
				namespace, object, _ = strings.Cut(object, "/")
			}
			where := []string{"--namespace=" + namespace, object}
			original := strip(t, kubectl(t, append([]string{"get", "--output=json"}, where...)...))
			change, putBack := []string{"patch", "--type=json", "--patch=" + m.patch}, "replace"
			if m.patch == "" {
				change, putBack = []string{"delete"}, "create"
			}
			restore := sync.OnceFunc(func() {
				var output []byte
				assert.Eventually(t, func() bool { // a controller may be writing the object's status at the same time
					output, err = run(original, putBack, "--filename=-")
					return err == nil
				}, patience, time.Second, "restore %s", m.object)
				require.NoError(t, err, "%s", output)
			})
			t.Cleanup(restore) // whatever happens

			kubectl(t, append(change, where...)...)
			output, red := live.await(t, m.catcher, false)
			require.True(t, red, "%s does not fail:\n%s", m.catcher, output)
			restore()
			output, green := live.await(t, m.catcher, true)
			require.True(t, green, "the object is restored, and %s still fails:\n%s", m.catcher, output)
			caught = m.catcher
		})
		table = append(table, fmt.Sprintf("| %-45s | %-65s |", name, caught))
	}
	t.Logf("each mutant, and the test that fails with it and passes without it:\n%s", strings.Join(table, "\n"))
}

// choose returns the names of the mutants of this run.
func choose(t *testing.T, mutants map[string]mutant) []string {
	t.Helper()
	var names []string
	names = slices.AppendSeq(names, maps.Keys(mutants))
	names = slices.AppendSeq(names, maps.Keys(lapses))
	slices.Sort(names)
	if os.Getenv("MUTANTS") == "all" {
		return names
	}
	number := func(variable string, otherwise uint64) uint64 {
		if os.Getenv(variable) == "" {
			return otherwise
		}
		n, err := strconv.ParseUint(os.Getenv(variable), 10, 64)
		require.NoError(t, err, variable)
		return n
	}
	count, seed := number("MUTANTS", 3), number("MUTANTS_SEED", rand.Uint64())
	t.Logf("%d of %d mutants, MUTANTS_SEED=%d", count, len(names), seed)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(int(count), len(names))]
}

// strip removes the fields of an object that the API server sets, so that it can be created again.
func strip(t *testing.T, encoded []byte) []byte {
	t.Helper()
	var object unstructured.Unstructured
	require.NoError(t, json.Unmarshal(encoded, &object.Object))
	for _, field := range []string{"resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(object.Object, "status")
	encoded, err := json.Marshal(object.Object)
	require.NoError(t, err)
	return encoded
}

// binary is the path of the compiled tests of package e2e.
type binary string

func compile(t *testing.T) binary {
	t.Helper()
	file := filepath.Join(t.TempDir(), "live.test")
	command := exec.Command("go", "test", "-c", "-o", file, "../e2e")
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return binary(file)
}

// await runs a test until it passes, or until it has failed twice in a row, since one failure may be by chance. It
// fails if there is no such test.
func (b binary) await(t *testing.T, test string, pass bool) (output []byte, ok bool) {
	t.Helper()
	streak := 0
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		command := exec.Command(string(b), "-test.v", "-test.timeout=5m", "-test.run="+test)
		command.Dir = "../e2e" // the tests find the checkout relative to their folder
		output, err := command.CombinedOutput()
		require.Contains(t, string(output), "--- ", "there is no test %s", test)
		if (err == nil) == pass {
			if streak++; pass || streak == 2 {
				return output, true
			}
			continue
		}
		streak = 0
		if time.Now().After(deadline) {
			return output, false
		}
	}
}
