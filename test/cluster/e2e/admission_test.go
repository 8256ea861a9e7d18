package e2e

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	foreignImage = "only what matches ^localhost:[0-9]+/ may run here; Tilt and ./deploy.sh " +
		"push what they build to this cluster's registry"
	writableRoot = "set securityContext.readOnlyRootFilesystem to true, and mount an emptyDir where files are written"
	lowUser      = "set securityContext.runAsUser to 10000 or more, on the pod or on the container"
	lowGroup     = "set securityContext.runAsGroup, and each other group, to 10000 or more"
	anExternalIP = "fields that no service may set here: externalIPs; " +
		"leave them out, and ask the platform to publish the service"
	foreign = "docker.io/library/busybox:1.37"
)

// The platform's admission policies refuse a team's pods with a message for its developer. Each case is one change to a
// pod that is admitted.
func TestAdmission(t *testing.T) {
	long(t)
	for _, team := range teams() {
		t.Run(team.namespace, func(t *testing.T) {
			t.Parallel()
			me := as(t, team.user)
			running := pods(t, team.namespace, team.service)[0]
			create := func(change func(*corev1.Pod)) error {
				pod := podLike(running)
				pod.Spec.InitContainers = []corev1.Container{migrateLike(running)}
				change(pod)
				_, err := me.CoreV1().Pods(team.namespace).Create(t.Context(), pod, dryRunCreate)
				return err
			}
			t.Run("let in", func(t *testing.T) { assert.NoError(t, create(func(*corev1.Pod) {})) })

			no, low, ours := false, int64(9999), int64(10001)
			for name, refused := range map[string]struct {
				message string
				change  func(*corev1.Pod)
			}{
				"image from elsewhere": {"image of " + team.service + " (" + foreign + "): " + foreignImage,
					func(pod *corev1.Pod) { pod.Spec.Containers[0].Image = foreign }},
				"init image from elsewhere": {"image of migrate (" + foreign + "): " + foreignImage,
					func(pod *corev1.Pod) { pod.Spec.InitContainers[0].Image = foreign }},
				"volume of an image from elsewhere": {"image of extra (" + foreign + "): " + foreignImage,
					func(pod *corev1.Pod) {
						pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "extra", VolumeSource: corev1.VolumeSource{
							Image: &corev1.ImageVolumeSource{Reference: foreign}}})
					}},
				// This is docker.io/library/localhost, version 5005.
				"image that looks local": {"image of " + team.service + " (localhost:5005): " + foreignImage,
					func(pod *corev1.Pod) { pod.Spec.Containers[0].Image = "localhost:5005" }},
				"writable root": {"writable root file system of " + team.service + ": " + writableRoot,
					func(pod *corev1.Pod) { pod.Spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem = &no }},
				"read-only root not set": {"writable root file system of migrate: " + writableRoot,
					func(pod *corev1.Pod) { pod.Spec.InitContainers[0].SecurityContext.ReadOnlyRootFilesystem = nil }},
				"low user": {"user of " + team.service + ": " + lowUser,
					func(pod *corev1.Pod) { pod.Spec.Containers[0].SecurityContext.RunAsUser = &low }},
				"no user": {"user of " + team.service + ", migrate: " + lowUser,
					func(pod *corev1.Pod) { withUsers(pod, nil, nil) }},
				"low user of the pod": {"user of " + team.service + ", migrate: " + lowUser,
					func(pod *corev1.Pod) { withUsers(pod, &low, nil) }},
				"low group": {"group of " + team.service + ": " + lowGroup,
					func(pod *corev1.Pod) { pod.Spec.Containers[0].SecurityContext.RunAsGroup = &low }},
				"low group of the pod's files": {"group of fsGroup: " + lowGroup,
					func(pod *corev1.Pod) { pod.Spec.SecurityContext.FSGroup = &low }},
				"another low group": {"group of supplementalGroups: " + lowGroup,
					func(pod *corev1.Pod) { pod.Spec.SecurityContext.SupplementalGroups = []int64{0} }},
			} {
				t.Run(name, func(t *testing.T) { refusedWith(t, create(refused.change), refused.message) })
			}
			for name, refused := range reachingBeyond(team.service) {
				t.Run(name, func(t *testing.T) { refusedWith(t, create(refused.change), refused.message) })
			}
			// The deletion of a pod may take as long as its grace period, and a drain waits for it.
			t.Run("long deletion", func(t *testing.T) {
				remove := func(seconds int64) error {
					return me.CoreV1().Pods(team.namespace).Delete(t.Context(), running.Name,
						metav1.DeleteOptions{DryRun: dryRun, GracePeriodSeconds: &seconds})
				}
				refusedWith(t, remove(301), "gracePeriodSeconds must be 300 or less")
				assert.NoError(t, remove(300))
			})
			t.Run("permitted annotations", func(t *testing.T) {
				assert.NoError(t, create(func(pod *corev1.Pod) {
					pod.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now", "note": "seen"}
				}))
			})
			t.Run("user set on the pod only", func(t *testing.T) {
				assert.NoError(t, create(func(pod *corev1.Pod) { withUsers(pod, &ours, nil) }))
			})

			debug := func(image string) error {
				_, err := me.CoreV1().Pods(team.namespace).Patch(t.Context(), running.Name, types.StrategicMergePatchType,
					debugContainer(t, image), dryRunPatch, "ephemeralcontainers")
				return err
			}
			t.Run("ephemeral container", func(t *testing.T) {
				refusedWith(t, debug(foreign), "image of debug ("+foreign+"): "+foreignImage)
				assert.NoError(t, debug(running.Spec.Containers[0].Image))
			})
			// No team may change a running pod; the policies also apply to users with that right.
			t.Run("another image later", func(t *testing.T) {
				change := func(image string) error {
					_, err := client.CoreV1().Pods(team.namespace).Patch(t.Context(), running.Name, types.StrategicMergePatchType,
						encode(t, map[string]any{"spec": map[string]any{"containers": []any{
							map[string]any{"name": team.service, "image": image}}}}), dryRunPatch)
					return err
				}
				refusedWith(t, change(foreign), "image of "+team.service+" ("+foreign+"): "+foreignImage)
				assert.NoError(t, change(running.Spec.Containers[0].Image+"0"))
			})

			t.Run("external IP", func(t *testing.T) {
				patch := func(patch string) error {
					_, err := me.CoreV1().Services(team.namespace).Patch(t.Context(), team.service,
						types.MergePatchType, []byte(patch), dryRunPatch)
					return err
				}
				refusedWith(t, patch(`{"spec": {"externalIPs": ["192.0.2.1"]}}`), anExternalIP)
				assert.NoError(t, patch(`{"metadata": {"labels": {"seen": "true"}}}`))
			})
		})
	}
}

// migrateLike returns an init container like that of a service with a database.
func migrateLike(pod corev1.Pod) corev1.Container {
	container := pod.Spec.Containers[0].DeepCopy()
	container.Name = "migrate"
	container.Ports, container.Lifecycle = nil, nil
	container.StartupProbe, container.LivenessProbe, container.ReadinessProbe = nil, nil, nil
	return *container
}

type refusedPod struct {
	message string
	change  func(*corev1.Pod)
}

// reachingBeyond returns pods of a service with effects beyond their namespace: on the other team's pods on the same
// node, on limited resources of the node, or on its draining.
func reachingBeyond(service string) map[string]refusedPod {
	yes, long := true, int64(301)
	fields := func(names string) string {
		return "fields that no pod may set here: " + names +
			"; leave them out, or ask the platform to add them to k8s/platform/admission.yaml"
	}
	spec := func(change func(*corev1.PodSpec)) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { change(&pod.Spec) }
	}
	container := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { change(&pod.Spec.Containers[0]) }
	}
	volume := func(source corev1.VolumeSource) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "extra", VolumeSource: source})
		}
	}
	tolerating := func(tolerations ...corev1.Toleration) func(*corev1.Pod) {
		return spec(func(spec *corev1.PodSpec) { spec.Tolerations = tolerations })
	}
	annotated := func(key string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { pod.Annotations = map[string]string{key: "false"} }
	}
	const (
		tolerations = "tolerations must be of not-ready or unreachable nodes, for 300 seconds or less"
		annotations = "annotations must be plain words, or of kubectl.kubernetes.io or prometheus.io"
	)
	tokens := "tokens must be for " + strings.Join(list.Authenticated(), ", ") +
		": name that audience, and set automountServiceAccountToken to false"
	return map[string]refusedPod{
		"priority class": {fields("priorityClassName"),
			spec(func(spec *corev1.PodSpec) { spec.PriorityClassName, spec.Priority = "system-node-critical", nil })},
		"node": {"nodeName must be left to the scheduler",
			spec(func(spec *corev1.PodSpec) { spec.NodeName = "node" })},
		"scheduler": {"schedulerName must be default-scheduler",
			spec(func(spec *corev1.PodSpec) { spec.SchedulerName = "mine" })},
		"every toleration": {tolerations, tolerating(corev1.Toleration{Operator: corev1.TolerationOpExists})},
		"toleration of the control plane": {tolerations, tolerating(corev1.Toleration{
			Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists})},
		"unlimited toleration": {tolerations, tolerating(corev1.Toleration{Key: corev1.TaintNodeUnreachable,
			Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})},
		"long toleration": {tolerations, tolerating(corev1.Toleration{Key: corev1.TaintNodeUnreachable,
			Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &long})},
		"anti-affinity to other namespaces": {"required podAntiAffinity must be to pods of the same namespace",
			spec(func(spec *corev1.PodSpec) {
				spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
						LabelSelector: &metav1.LabelSelector{}, NamespaceSelector: &metav1.LabelSelector{},
						TopologyKey: corev1.LabelHostname}}}}
			})},
		"long grace period": {"terminationGracePeriodSeconds must be 300 or less",
			spec(func(spec *corev1.PodSpec) { spec.TerminationGracePeriodSeconds = &long })},
		"finalizer": {"finalizers must be left out, or a drain of the node would wait for them",
			func(pod *corev1.Pod) { pod.Finalizers = []string{"example.com/never"} }},
		"annotation for the autoscaler": {annotations, annotated("cluster-autoscaler.kubernetes.io/safe-to-evict")},
		"annotation for the runtime":    {annotations, annotated("io.kubernetes.cri-o.userns-mode")},
		"groups of the image": {"supplementalGroupsPolicy must be Strict",
			spec(func(spec *corev1.PodSpec) { spec.SecurityContext.SupplementalGroupsPolicy = nil })},
		"seccomp profile of the node": {"seccompProfile must be RuntimeDefault",
			container(func(container *corev1.Container) {
				profile := "mine.json"
				container.SecurityContext.SeccompProfile = &corev1.SeccompProfile{
					Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &profile}
			})},
		"AppArmor profile": {fields(service + ": appArmorProfile"),
			container(func(container *corev1.Container) {
				container.SecurityContext.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
			})},
		"kernel parameter": {fields("sysctls"),
			spec(func(spec *corev1.PodSpec) {
				spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "1024 65535"}}
			})},
		"shared processes": {fields("shareProcessNamespace"),
			spec(func(spec *corev1.PodSpec) { spec.ShareProcessNamespace = &yes })},
		"host aliases": {fields("hostAliases"),
			spec(func(spec *corev1.PodSpec) {
				spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"payment-provider"}}}
			})},
		"scheduling gate": {fields("schedulingGates"),
			spec(func(spec *corev1.PodSpec) {
				spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/gate"}}
			})},
		"resizing": {fields(service + ": resizePolicy"),
			container(func(container *corev1.Container) {
				container.ResizePolicy = []corev1.ContainerResizePolicy{
					{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.NotRequired}}
			})},
		"device": {fields(service + ": resources other than cpu memory ephemeral-storage"),
			container(func(container *corev1.Container) {
				one := resource.MustParse("1")
				container.Resources.Limits["example.com/device"], container.Resources.Requests["example.com/device"] = one, one
			})},
		"volume of a driver": {fields("extra: csi"), volume(corev1.VolumeSource{
			CSI: &corev1.CSIVolumeSource{Driver: "example.com"}})},
		"generic ephemeral volume": {fields("extra: ephemeral"), volume(corev1.VolumeSource{
			Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{
						Requests: corev1.ResourceList{"storage": resource.MustParse("1Mi")}}}}}})},
		"unlimited emptyDir": {"emptyDir must have a sizeLimit", volume(corev1.VolumeSource{
			EmptyDir: &corev1.EmptyDirVolumeSource{}})},
		"token for another": {tokens, volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: "vault", Path: "token"}}}}})},
		"token for the API server": {tokens,
			spec(func(spec *corev1.PodSpec) { spec.AutomountServiceAccountToken = &yes })},
	}
}

// No Service takes over traffic to an address that another one has, or had.
func TestAdmissionOfServices(t *testing.T) {
	long(t)
	free := serviceAddress(t, "default", "kubernetes") // for example 10.96.0.1 443
	free = free[:strings.LastIndex(free, ".")] + ".251"
	for _, team := range teams() {
		t.Run(team.namespace, func(t *testing.T) {
			create := func(change func(*corev1.ServiceSpec)) error {
				service := serviceWith()
				change(&service.Spec)
				_, err := as(t, team.user).CoreV1().Services(team.namespace).Create(t.Context(), service, dryRunCreate)
				return err
			}
			for name, refused := range map[string]struct {
				message string
				change  func(*corev1.ServiceSpec)
			}{
				"external IP": {anExternalIP, func(spec *corev1.ServiceSpec) { spec.ExternalIPs = []string{"192.0.2.1"} }},
				"another name": {"fields that no service may set here: externalName;",
					func(spec *corev1.ServiceSpec) {
						spec.Type, spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
					}},
				"an address of its choice": {"clusterIP must be left out, or None",
					func(spec *corev1.ServiceSpec) { spec.ClusterIP = free }},
			} {
				t.Run(name, func(t *testing.T) { refusedWith(t, create(refused.change), refused.message) })
			}
			assert.NoError(t, create(func(*corev1.ServiceSpec) {}))
			assert.NoError(t, create(func(spec *corev1.ServiceSpec) { spec.ClusterIP = corev1.ClusterIPNone }))
		})
	}
}

// A team's disruption budget never prevents the platform from draining a node.
func TestAdmissionOfBudgets(t *testing.T) {
	long(t)
	for _, team := range teams() {
		t.Run(team.namespace, func(t *testing.T) {
			create := func(change func(*policyv1.PodDisruptionBudget)) error {
				always, one := policyv1.AlwaysAllow, intstr.FromInt32(1)
				labels := map[string]string{"app.kubernetes.io/name": "extra"}
				budget := &policyv1.PodDisruptionBudget{
					ObjectMeta: metav1.ObjectMeta{Name: "extra"},
					Spec: policyv1.PodDisruptionBudgetSpec{
						MaxUnavailable:             &one,
						UnhealthyPodEvictionPolicy: &always,
						Selector:                   &metav1.LabelSelector{MatchLabels: labels},
					},
				}
				change(budget)
				_, err := as(t, team.user).PolicyV1().PodDisruptionBudgets(team.namespace).Create(t.Context(), budget, dryRunCreate)
				return err
			}
			unavailable := func(most intstr.IntOrString) func(*policyv1.PodDisruptionBudget) {
				return func(budget *policyv1.PodDisruptionBudget) { budget.Spec.MaxUnavailable = &most }
			}
			const (
				most   = "maxUnavailable must be 1 or more; minAvailable can forbid every disruption"
				itself = "a budget must have the name that it selects"
				unwell = "unhealthyPodEvictionPolicy must be AlwaysAllow"
			)
			for name, refused := range map[string]struct {
				message string
				change  func(*policyv1.PodDisruptionBudget)
			}{
				"none":            {most, unavailable(intstr.FromInt32(0))},
				"none in percent": {most, unavailable(intstr.FromString("0%"))},
				"all must stay": {most, func(budget *policyv1.PodDisruptionBudget) {
					all := intstr.FromString("100%")
					budget.Spec.MaxUnavailable, budget.Spec.MinAvailable = nil, &all
				}},
				"not set": {most, func(budget *policyv1.PodDisruptionBudget) { budget.Spec.MaxUnavailable = nil }},
				"broken pods": {unwell, func(budget *policyv1.PodDisruptionBudget) {
					budget.Spec.UnhealthyPodEvictionPolicy = nil
				}},
				"every pod": {itself, func(budget *policyv1.PodDisruptionBudget) {
					budget.Spec.Selector = &metav1.LabelSelector{}
				}},
				// Kubernetes refuses to evict a pod that two budgets select.
				"a second budget": {itself, func(budget *policyv1.PodDisruptionBudget) {
					budget.Spec.Selector.MatchLabels["app.kubernetes.io/name"] = team.service
				}},
			} {
				t.Run(name, func(t *testing.T) { refusedWith(t, create(refused.change), refused.message) })
			}
			assert.NoError(t, create(func(*policyv1.PodDisruptionBudget) {}))
			assert.NoError(t, create(unavailable(intstr.FromString("25%"))))
		})
	}
}

// As with Pod Security, applying a Deployment prints a warning if its pods would be refused.
func TestAdmissionWarnsOfDeployments(t *testing.T) {
	long(t)
	for _, team := range teams() {
		t.Run(team.namespace, func(t *testing.T) {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(t, team.user))
			require.NoError(t, err)
			var warned warnings
			config.WarningHandler = &warned
			me, err := kubernetes.NewForConfig(config)
			require.NoError(t, err)

			apply := func(change func(*corev1.PodSpec)) []string {
				spec := podLike(pods(t, team.namespace, team.service)[0]).Spec
				change(&spec)
				labels := map[string]string{"app.kubernetes.io/name": "applied"}
				name, selector := metav1.ObjectMeta{Name: "applied"}, &metav1.LabelSelector{MatchLabels: labels}
				template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}
				_, err := me.AppsV1().Deployments(team.namespace).Create(t.Context(), &appsv1.Deployment{ObjectMeta: name,
					Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}, dryRunCreate)
				assert.NoError(t, err)
				_, err = me.AppsV1().StatefulSets(team.namespace).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: name,
					Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}}, dryRunCreate)
				assert.NoError(t, err)
				return warned.take()
			}
			assert.Empty(t, apply(func(*corev1.PodSpec) {}))
			said := apply(func(spec *corev1.PodSpec) { spec.Containers[0].Image = foreign })
			require.Len(t, said, 2, "a Deployment and a StatefulSet")
			for _, text := range said {
				assert.Contains(t, text, "image of "+team.service+" ("+foreign+"): "+foreignImage)
			}
			said = apply(func(spec *corev1.PodSpec) { spec.PriorityClassName = "system-node-critical" })
			require.Len(t, said, 2)
			for _, text := range said {
				assert.Contains(t, text, "fields that no pod may set here: priorityClassName;")
			}
		})
	}
}

// Production's parameter admits no image that is named by a tag. The test applies it to its own namespace only.
func TestProductionTakesDigestsOnly(t *testing.T) {
	long(t)
	namespace := newNamespace(t)
	images, allowed := productionImages(t)
	create := func(image string) error {
		pod := podLike(podsOf(t, "invoice-app")[0])
		pod.Namespace = namespace
		pod.Spec.ServiceAccountName = "default"
		pod.Spec.InitContainers = nil
		pod.Spec.Containers[0].Image = image
		_, err := client.CoreV1().Pods(namespace).Create(t.Context(), pod, dryRunCreate)
		return err
	}
	require.NoError(t, create(foreign), "nothing is bound yet")

	_, err := client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "admission"},
		Data:       map[string]string{"images": allowed, "advice": "make release", "audiences": "payment-provider"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	binding, err := bindings.Get(t.Context(), "team-pods", metav1.GetOptions{})
	require.NoError(t, err)
	binding.ObjectMeta = metav1.ObjectMeta{Name: namespace}
	binding.Spec.ParamRef.Namespace = namespace
	binding.Spec.MatchResources.NamespaceSelector = &metav1.LabelSelector{
		MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}}
	_, err = bindings.Create(t.Context(), binding, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bindings.Delete(context.Background(), namespace, metav1.DeleteOptions{}) })

	require.EventuallyWithT(t, func(t *assert.CollectT) {
		assert.ErrorContains(t, create(foreign), "only what matches "+allowed+" may run here; make release")
	}, time.Minute, time.Second)
	for _, image := range images {
		name, digest, _ := strings.Cut(image, "@")
		if digest == "" { // there is no release yet
			assert.ErrorContains(t, create(image), allowed)
			continue
		}
		assert.NoError(t, create(image), image)
		assert.ErrorContains(t, create(name+":v1.0.0"), allowed)
		assert.ErrorContains(t, create(name), allowed)
		assert.ErrorContains(t, create("registry.example.org/invoice-app@"+digest), allowed)
	}
}

// productionImages returns the teams' images in the production overlay, and the pattern of those that it admits.
func productionImages(t *testing.T) (images []string, allowed string) {
	t.Helper()
	overlay := mustRun(t, command(t, "kubectl", "kustomize", "k8s/overlays/production"))
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(overlay), 4096)
	for {
		var object struct {
			Metadata metav1.ObjectMeta
			Data     map[string]string
			Spec     struct{ Template corev1.PodTemplateSpec }
		}
		err := decoder.Decode(&object)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if object.Metadata.Namespace == "platform" && object.Metadata.Name == "admission" {
			allowed = object.Data["images"]
		}
		if !slices.Contains(teamNames(), object.Metadata.Namespace) {
			continue
		}
		for _, container := range object.Spec.Template.Spec.Containers {
			images = append(images, container.Image)
		}
	}
	require.NotEmpty(t, allowed)
	require.NotEmpty(t, images)
	return images, allowed
}

// A container without resources gets the platform's defaults, and none gets more than the platform's maximum.
func TestContainersHaveBounds(t *testing.T) {
	long(t)
	for _, team := range teams() {
		t.Run(team.namespace, func(t *testing.T) {
			create := func(resources corev1.ResourceRequirements) (*corev1.Pod, error) {
				pod := podLike(pods(t, team.namespace, team.service)[0])
				pod.Spec.Containers[0].Resources = resources
				return as(t, team.user).CoreV1().Pods(team.namespace).Create(t.Context(), pod, dryRunCreate)
			}
			pod, err := create(corev1.ResourceRequirements{})
			require.NoError(t, err)
			assert.Equal(t, "128Mi", pod.Spec.Containers[0].Resources.Limits.Memory().String())
			_, err = create(corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("2Gi")}})
			assert.ErrorContains(t, err, "maximum memory usage per Container is 1Gi")
		})
	}
}

func refusedWith(t *testing.T, err error, message string) {
	t.Helper()
	require.True(t, apierrors.IsInvalid(err), "%v", err)
	assert.ErrorContains(t, err, message)
}

// withUsers sets the user of a pod, and that of each of its containers.
func withUsers(pod *corev1.Pod, ofPod, ofContainers *int64) {
	pod.Spec.SecurityContext.RunAsUser = ofPod
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].SecurityContext.RunAsUser = ofContainers
		}
	}
}

// debugContainer returns the patch with which kubectl debug adds a container to a running pod.
func debugContainer(t *testing.T, image string) []byte {
	t.Helper()
	yes, no := true, false
	return encode(t, map[string]any{"spec": map[string]any{"ephemeralContainers": []any{
		corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debug", Image: image,
			SecurityContext: &corev1.SecurityContext{
				ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}},
	}}})
}

func serviceWith(externalIPs ...string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "extra"},
		Spec: corev1.ServiceSpec{
			ExternalIPs: externalIPs,
			Selector:    map[string]string{"app.kubernetes.io/name": "extra"},
			Ports:       []corev1.ServicePort{{Port: 80}},
		},
	}
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	encoded, err := json.Marshal(value)
	require.NoError(t, err)
	return encoded
}

// warnings collects the warnings in responses of the API server.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

// take returns the warnings so far, and removes them.
func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	said := w.said
	w.said = nil
	return said
}
