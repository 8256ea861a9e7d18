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

// The bug of the challenge: runAsNonRoot, an image that names no user, and no runAsUser. The
// kubelet will not start it; a numeric user, and nothing else, cures it. A team's namespace does
// not even let it in any more, so the two are seen in another one, where the program can only
// print its help.
func TestPartOne(t *testing.T) {
	long(t)
	awaitEverything(t)
	deployed := podsOf(t, "invoice-app")[0]
	image := withoutUser(t, deployed.Spec.Containers[0].Image)
	elsewhere := newNamespace(t)

	newPod := func(user *int64) *corev1.Pod {
		pod := podLike(deployed)
		pod.Labels = map[string]string{"app.kubernetes.io/name": "invoice-app"} // or it may not reach its database
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
	}, time.Minute, 200*time.Millisecond, "the original does not start")
	assert.Contains(t, waiting.Message, "container has runAsNonRoot and image will run as root")

	mended := runPod(t, helping(&numeric))
	require.Eventually(t, func() bool {
		ended := state(mended).Terminated
		return ended != nil && ended.ExitCode == 0
	}, time.Minute, 200*time.Millisecond, "the mended one has run")

	_, err := client.CoreV1().Pods(namespaceOf("invoice-app")).Create(t.Context(), newPod(nil), dryRunCreate)
	assert.ErrorContains(t, err, "set securityContext.runAsUser to 10000 or more")
	inTheTeams := newPod(&numeric)
	inTheTeams.Spec.Containers[0].SecurityContext.RunAsGroup = &numeric // which is asked for here, too
	fixed := runPod(t, inTheTeams)
	require.Eventually(t, func() bool {
		now, err := client.CoreV1().Pods(fixed.Namespace).Get(context.Background(), fixed.Name, metav1.GetOptions{})
		return err == nil && ready(*now)
	}, time.Minute, 200*time.Millisecond, "the fixed one is Ready")
}

// withoutUser publishes an image again, as it would be had nobody named a user.
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
