package requestid

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAccept(t *testing.T) {
	for sent, taken := range map[string]bool{
		"abc-123": true, strings.Repeat("x", 64): true,
		"": false, "forged\" level=ERROR": false, "two\nlines": false, strings.Repeat("x", 65): false,
	} {
		id := Accept(sent)
		assert.NotEmpty(t, id)
		assert.Equal(t, taken, id == sent, "%q", sent)
	}
	assert.NotEqual(t, Accept(""), Accept(""))
}

func TestContext(t *testing.T) {
	assert.Empty(t, From(t.Context()))
	assert.Equal(t, "abc", From(With(t.Context(), "abc")))
}
