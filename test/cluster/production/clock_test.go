package production

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// jump makes the wall clock of a program jump every ten seconds, by up to two hours in both directions. Containers
// share the kernel's clock, so the clock of one pod can only be changed in its program. Its monotonic clock goes on, as
// it does on a computer whose time is set.
const jump = `
	sec += [...]int64{0, 7200, -600, 30, -7200}[(mono-startNano)/10_000_000_000%5]
`

// jumpClock lets a pod of a service run a program whose clock jumps, until the pod is replaced.
func (c *chaos) jumpClock(ctx context.Context, g group) error {
	pod, err := c.victim(ctx, g)
	if err != nil {
		return err
	}
	image := c.jumping[g.name]
	if image == "" {
		const now = "sec, nsec, mono := runtimeNow()\n"
		original := filepath.Join(run(c.T, "go", "env", "GOROOT"), "src/time/time.go")
		source, err := os.ReadFile(original)
		require.NoError(c, err)
		require.Equal(c, 1, strings.Count(string(source), now), original)
		changed := filepath.Join(c.TempDir(), "time.go")
		require.NoError(c, os.WriteFile(changed, []byte(strings.Replace(string(source), now, now+jump, 1)), 0o600))
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
		require.NoError(c, err)
		file := filepath.Join(c.TempDir(), "overlay.json")
		require.NoError(c, os.WriteFile(file, overlay, 0o600))
		image = release(c.T, g.name, nil, "-overlay="+file)
		c.jumping[g.name] = image
	}
	patch := fmt.Sprintf(`{"spec":{"containers":[{"name":%q,"image":%q}]}}`, g.name, image)
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(patch),
		metav1.PatchOptions{})
	return err
}

// resetClocks replaces the pods whose clocks jump.
func (c *chaos) resetClocks(ctx context.Context) {
	for name, image := range c.jumping {
		found, err := pods(ctx, teamOf(name), "app.kubernetes.io/name="+name)
		require.NoError(c, err)
		for _, pod := range found {
			if pod.Spec.Containers[0].Image == image {
				require.NoError(c, deletePod(ctx, pod))
			}
		}
	}
}
