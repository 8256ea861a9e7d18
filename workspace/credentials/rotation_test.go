package credentials

import (
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

// The services always have the password that the databases accept, and each step leaves time for the pods to notice it.
func TestRotatePasswords(t *testing.T) {
	type secret struct {
		Metadata   map[string]any    `json:"metadata"`
		Data       map[string][]byte `json:"data"`
		StringData map[string]string `json:"stringData"`
	}
	stored := map[string]secret{} // by name: of one team and one role
	since := time.Hour            // the last step
	processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		line := strings.Join(call.Args, " ")
		if name := regexp.MustCompile(` get secret (\S+) .*--output=json`).FindStringSubmatch(line); name != nil {
			s := stored[name[1]]
			s.Metadata["managedFields"] = []any{map[string]any{"manager": rotator, "time": time.Now().Add(-since)}}
			text, _ := json.Marshal(s)
			return processtest.Answer{Stdout: string(text)}
		}
		var s secret
		if strings.Contains(line, " apply ") && json.Unmarshal([]byte(call.Stdin), &s) == nil {
			stored[s.Metadata["name"].(string)] = s
		}
		return processtest.Answer{Stdout: "done"}
	})
	first := map[string][]byte{"passfile": []byte("*:*:*:owner:old\n")}
	stored["postgres-owner"] = secret{Metadata: map[string]any{"name": "postgres-owner"}, Data: first}
	first = map[string][]byte{"passfile": []byte("*:*:*:application:old\n")}
	stored["postgres-application"] = secret{Metadata: map[string]any{"name": "postgres-application"}, Data: first}
	list := services.List{Product: "things", Services: []services.Service{{Name: "s", Team: "team", Database: true}}}
	rotate := func(step Rotation) error { return RotatePasswords(t.Context(), io.Discard, "the-cluster", list, step) }
	state := func() (passfile, accepted string) {
		require.NoError(t, DatabasePasswords(t.Context(), io.Discard, "the-cluster", list))
		return string(stored["postgres-application"].Data["passfile"]), stored["team-application"].StringData["password"]
	}

	require.ErrorContains(t, rotate(Use), "the next step is add")
	for range 2 { // each step can be repeated
		require.NoError(t, rotate(Add))
	}
	passfile, accepted := state()
	assert.Regexp(t, `^\*:\*:\*:application:old\n\*:\*:\*:application:[0-9a-f]{48}\n$`, passfile)
	assert.Equal(t, "old", accepted, "the pods may not have noticed the new password yet")

	since = time.Minute
	require.ErrorContains(t, rotate(Use), "wait until")
	since = time.Hour
	require.ErrorContains(t, rotate(Remove), "the next step is use")
	for range 2 {
		require.NoError(t, rotate(Use))
	}
	passfile, accepted = state()
	assert.Contains(t, passfile, ":old\n")
	assert.Contains(t, passfile, ":"+accepted+"\n")
	assert.Len(t, accepted, 48)

	for range 2 {
		require.NoError(t, rotate(Remove))
	}
	passfile, _ = state()
	assert.Equal(t, "*:*:*:application:"+accepted+"\n", passfile)
	require.NoError(t, rotate(Add), "the next rotation")
}
