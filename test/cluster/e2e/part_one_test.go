package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The bug of the challenge is a pod with runAsNonRoot, but without runAsUser or a user in its image. The kubelet does
// not start it; setting a numeric user is enough to fix it. A team's namespace no longer admits such a pod, so the test
// starts both versions in another namespace, where the program can only print its help.
func TestPartOne(t *testing.T) {
	long(t)
	awaitEverything(t)
	deployed := podsOf(t, "invoice-app")[0]
	image := withoutUser(t, deployed.Spec.Containers[0].Image)
	elsewhere := newNamespace(t)

	newPod := func(user *int64) *corev1.Pod {
		pod := podLike(deployed)
		pod.Labels = map[string]string{"app.kubernetes.io/name": "invoice-app"} // may reach the database
		pod.Spec.InitContainers = nil
		pod.Spec.Containers[0].Image = image
		pod.Spec.SecurityContext.RunAsUser = nil
		pod.Spec.SecurityContext.RunAsGroup = nil
		pod.Spec.Containers[0].SecurityContext.RunAsUser = user
		pod.Spec.Containers[0].SecurityContext.RunAsGroup = nil
		return pod
	}
	helping := func(user *int64) *corev1.Pod {
		pod := newPod(user)
		pod.Namespace = elsewhere
		pod.Spec.ServiceAccountName = "default"
		pod.Spec.Volumes, pod.Spec.Containers[0].VolumeMounts, pod.Spec.Containers[0].EnvFrom = nil, nil, nil
		pod.Spec.Containers[0].Args = []string{"--help"}
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		return pod
	}
	numeric := int64(10001)

	original := runPod(t, helping(nil))
	var waiting *corev1.ContainerStateWaiting
	require.Eventually(t, func() bool {
		waiting = state(original).Waiting
		return waiting != nil && waiting.Reason == "CreateContainerConfigError"
	}, time.Minute, 200*time.Millisecond, "the original pod does not start")
	assert.Contains(t, waiting.Message, "container has runAsNonRoot and image will run as root")

	fixed := runPod(t, helping(&numeric))
	require.Eventually(t, func() bool {
		ended := state(fixed).Terminated
		return ended != nil && ended.ExitCode == 0
	}, time.Minute, 200*time.Millisecond, "the fixed pod runs")

	_, err := client.CoreV1().Pods(namespaceOf("invoice-app")).Create(t.Context(), newPod(nil), dryRunCreate)
	assert.ErrorContains(t, err, "set securityContext.runAsUser to 10000 or more")
	inTheTeams := newPod(&numeric)
	inTheTeams.Spec.Containers[0].SecurityContext.RunAsGroup = &numeric // also required there
	admitted := runPod(t, inTheTeams)
	require.Eventually(t, func() bool {
		now, err := client.CoreV1().Pods(admitted.Namespace).Get(context.Background(), admitted.Name, metav1.GetOptions{})
		return err == nil && ready(*now)
	}, time.Minute, 200*time.Millisecond, "the fixed pod is Ready in the team's namespace")
}

// withoutUser pushes a copy of an image that does not name a user, and returns its name.
func withoutUser(t *testing.T, name string) string {
	t.Helper()
	image, err := crane.Pull(name)
	require.NoError(t, err)
	config, err := image.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.Config.User = ""
	image, err = mutate.ConfigFile(image, config)
	require.NoError(t, err)
	name += "-without-user"
	require.NoError(t, crane.Push(image, name))
	return name
}

func state(pod *corev1.Pod) corev1.ContainerState {
	now, err := client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
	if err != nil || len(now.Status.ContainerStatuses) == 0 {
		return corev1.ContainerState{}
	}
	return now.Status.ContainerStatuses[0].State
}
