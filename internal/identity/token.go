package identity

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
)

// TokenFile is this service's own token, in a file that the kubelet replaces after 80 % of the
// token's lifetime.
type TokenFile struct{ token file[string] }

// NewTokenFile returns the TokenFile at path, which is read on use.
func NewTokenFile(path string) *TokenFile {
	return &TokenFile{file[string]{path: path, parse: func(content []byte) (string, error) {
		content = bytes.TrimSpace(content)
		if len(content) == 0 {
			return "", errors.New("the file is empty")
		}
		return string(content), nil
	}}}
}

// Authorize adds the token to r, and to r alone: a client that follows a redirect to another host
// does not send it there.
func (f *TokenFile) Authorize(r *http.Request) error {
	token, err := f.token.read()
	if err != nil {
		return fmt.Errorf("read this service's token: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return nil
}
