package identity

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
)

// TokenFile is this service's own token, in a file that the kubelet keeps
// fresh: it replaces the token when 80 % of its life are over.
type TokenFile struct{ token file[string] }

// NewTokenFile returns the TokenFile at path. It is read when it is needed.
func NewTokenFile(path string) *TokenFile {
	return &TokenFile{file[string]{path: path, parse: func(content []byte) (string, error) {
		content = bytes.TrimSpace(content)
		if len(content) == 0 {
			return "", errors.New("there is no token in it")
		}
		return string(content), nil
	}}}
}

// Authorize shows the token with r, and with r alone: a client that followed a
// redirect to another host would not carry it there.
func (f *TokenFile) Authorize(r *http.Request) error {
	token, err := f.token.read()
	if err != nil {
		return fmt.Errorf("this service's token cannot be read: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return nil
}
