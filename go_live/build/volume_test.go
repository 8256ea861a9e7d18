package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	boundVolume     = `{"kind":"PersistentVolume","spec":{"claimRef":{"uid":"1"}},"status":{"phase":"Bound"}}`
	releasedVolume  = `{"kind":"PersistentVolume","spec":{"claimRef":{"uid":"1"}},"status":{"phase":"Released"}}`
	availableVolume = `{"kind":"PersistentVolume","spec":{"claimRef":{}},"status":{"phase":"Available"}}`
	endingVolume    = `{"kind":"PersistentVolume","metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"},` +
		`"spec":{"claimRef":{"uid":"1"}},"status":{"phase":"Bound"}}`

	boundClaim  = `{"kind":"PersistentVolumeClaim","metadata":{"uid":"1"},"status":{"phase":"Bound"}}`
	newClaim    = `{"kind":"PersistentVolumeClaim","metadata":{"uid":"2"},"status":{"phase":"Pending"}}`
	lostClaim   = `{"kind":"PersistentVolumeClaim","metadata":{"uid":"1"},"status":{"phase":"Lost"}}`
	endingClaim = `{"kind":"PersistentVolumeClaim","metadata":{"uid":"1","deletionTimestamp":"2026-01-01T00:00:00Z"},` +
		`"status":{"phase":"Bound"}}`
)

func TestAVolumeIsFreed(t *testing.T) {
	const (
		freed = `patch persistentvolume/v --type=json --patch=[{"op": "test", "path": "/spec/claimRef/uid", "value": "1"},` +
			`{"op": "remove", "path": "/spec/claimRef/uid"},{"op": "remove", "path": "/spec/claimRef/resourceVersion"}]`
		finalizers = ` --type=merge --patch={"metadata": {"finalizers": null}}`
	)
	anew := []string{
		"delete persistentvolumeclaim/c --ignore-not-found --wait=false", "patch persistentvolumeclaim/c" + finalizers,
		"delete persistentvolume/v --ignore-not-found --wait=false", "patch persistentvolume/v" + finalizers,
	}
	for name, test := range map[string]struct {
		objects string
		calls   []string
	}{
		"there is nothing":                     {"", nil},
		"bound":                                {boundVolume + "," + boundClaim, nil},
		"about to be bound":                    {availableVolume + "," + newClaim, nil},
		"the claim is gone":                    {releasedVolume, []string{freed}},
		"the claim is gone, not seen yet":      {boundVolume, []string{freed}},
		"there is a new claim":                 {releasedVolume + "," + newClaim, []string{freed}},
		"the claim is being deleted":           {boundVolume + "," + endingClaim, anew},
		"the volume is being deleted":          {endingVolume + "," + boundClaim, anew},
		"the volume is gone":                   {lostClaim, anew},
		"the volume was replaced by a new":     {availableVolume + "," + lostClaim, anew},
		"only a claim that waits for a volume": {newClaim, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var calls []string
			require.NoError(t, freeVolume(t.Context(), func(_ context.Context, args ...string) (string, error) {
				line := strings.Join(args, " ")
				switch {
				case line == "get persistentvolume/v persistentvolumeclaim/c --ignore-not-found --output=json":
					if test.objects == "" {
						return "", nil
					}
					return `{"kind":"List","items":[` + test.objects + `]}`, nil
				case strings.HasSuffix(line, finalizers):
					calls = append(calls, line)
					return "", errors.New(`Error from server (NotFound): persistentvolumes "v" not found`)
				default:
					calls = append(calls, line)
					return "", nil
				}
			}, "v", "c"))
			assert.Equal(t, test.calls, calls)
		})
	}
}

func TestAVolumeThatCannotBeFreedIsReported(t *testing.T) {
	for _, verb := range []string{"get", "delete", "patch"} {
		for _, objects := range []string{releasedVolume, endingVolume} {
			err := freeVolume(t.Context(), func(_ context.Context, args ...string) (string, error) {
				if args[0] == verb {
					return "", errors.New("connection refused")
				}
				return `{"items":[` + objects + `]}`, nil
			}, "v", "c")
			if verb == "delete" && objects == releasedVolume {
				assert.NoError(t, err)
				continue
			}
			assert.EqualError(t, err, "connection refused", "%s", verb)
		}
	}
}
