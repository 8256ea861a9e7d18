package live

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	foreignImage = "only what matches ^localhost:[0-9]+/ may run here; Tilt and ./deploy.sh push what they build to this cluster's registry"
	writableRoot = "set securityContext.readOnlyRootFilesystem to true, and mount an emptyDir where files are written"
	lowUser      = "set securityContext.runAsUser to 10000 or more, on the pod or on the container"
	lowGroup     = "set securityContext.runAsGroup, and each other group, to 10000 or more"
	anExternalIP = "spec.externalIPs may not be set: leave it out, and ask the platform to publish the service"
	foreign      = "docker.io/library/busybox:1.37"
)

// What the platform's admission policies refuse a team, and what its developer is told. Each case
// is one change to a pod that is let in.
func TestAdmission(t *testing.T) {
	for _, team := range teams {
		t.Run(team.namespace, func(t *testing.T) {
			t.Parallel()
			me := as(t, team.user)
			running := pods(t, team.namespace, team.service)[0]
			create := func(change func(*corev1.Pod)) error {
				pod := podLike(running)
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
				"root not said to be read-only": {"writable root file system of migrate: " + writableRoot,
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
			t.Run("user of the pod alone", func(t *testing.T) {
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
			// No team may change a pod that runs; whoever may is held to the same.
			t.Run("another image later", func(t *testing.T) {
				change := func(image string) error {
					_, err := client.CoreV1().Pods(team.namespace).Patch(t.Context(), running.Name, types.StrategicMergePatchType,
						encode(t, map[string]any{"spec": map[string]any{"containers": []any{
							map[string]any{"name": team.service, "image": image}}}}), dryRunPatch)
					return err
				}
				refusedWith(t, change(foreign), "image of "+team.service+" ("+foreign+"): "+foreignImage)
				assert.NoError(t, change(running.Spec.InitContainers[0].Image+"0"))
			})

			t.Run("external IP", func(t *testing.T) {
				services := me.CoreV1().Services(team.namespace)
				_, err := services.Create(t.Context(), serviceWith("192.0.2.1"), dryRunCreate)
				refusedWith(t, err, anExternalIP)
				_, err = services.Create(t.Context(), serviceWith(), dryRunCreate)
				assert.NoError(t, err)
				patch := func(patch string) error {
					_, err := services.Patch(t.Context(), team.service, types.MergePatchType, []byte(patch), dryRunPatch)
					return err
				}
				refusedWith(t, patch(`{"spec": {"externalIPs": ["192.0.2.1"]}}`), anExternalIP)
				assert.NoError(t, patch(`{"metadata": {"labels": {"seen": "true"}}}`))
			})
		})
	}
}

// As with Pod Security, who applies a Deployment is warned of what would happen to its pods.
func TestAdmissionWarnsOfDeployments(t *testing.T) {
	for _, team := range teams {
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
		})
	}
}

// Production's parameter lets nothing in that is named by a tag. It is tried where it binds the test
// alone.
func TestProductionTakesDigestsOnly(t *testing.T) {
	namespace := newNamespace(t)
	images, allowed := productionImages(t)
	create := func(image string) error {
		pod := podLike(pods(t, "invoicing", "invoice-app")[0])
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
		Data:       map[string]string{"images": allowed, "advice": "make release"}}, metav1.CreateOptions{})
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
		assert.NoError(t, create(image), image)
		assert.ErrorContains(t, create(name+":v1.0.0"), allowed)
		assert.ErrorContains(t, create(name), allowed)
		assert.ErrorContains(t, create("registry.example.org/invoice-app@"+digest), allowed)
	}
}

// productionImages are those of the production overlay, and the pattern that it lets in.
func productionImages(t *testing.T) (images []string, allowed string) {
	t.Helper()
	overlay := mustRun(t, command(t, "kubectl", "kustomize", "k8s/production"))
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
		for _, container := range object.Spec.Template.Spec.Containers {
			images = append(images, container.Image)
		}
	}
	require.NotEmpty(t, allowed)
	require.Len(t, images, 4)
	return images, allowed
}

// A container that names no resources gets the platform's, and none gets more than the platform's.
func TestContainersHaveBounds(t *testing.T) {
	for _, team := range teams {
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

// withUsers sets the user of a pod, and the one of each of its containers.
func withUsers(pod *corev1.Pod, ofPod, ofContainers *int64) {
	pod.Spec.SecurityContext.RunAsUser = ofPod
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].SecurityContext.RunAsUser = ofContainers
		}
	}
}

// debugContainer is the patch that kubectl debug makes to put a container into a running pod.
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

// warnings are what the API server says beside its answers.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

// take forgets what it returns.
func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	said := w.said
	w.said = nil
	return said
}
