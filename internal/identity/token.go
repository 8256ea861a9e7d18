package identity

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
)

// TokenFile is this service's own token, in a file that the kubelet replaces after 80 % of the
// token's lifetime.
type TokenFile struct{ token *files[string] }

// NewTokenFile returns the TokenFile at path, which is read on use.
func NewTokenFile(path string) *TokenFile {
	return &TokenFile{one(path, func(content []byte) (string, error) {
		content = bytes.TrimSpace(content)
		if len(content) == 0 {
			return "", errors.New("the file is empty")
		}
		return string(content), nil
	})}
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

// Trouble returns, for the log, why the called service refuses this token for its time, or "". The
// kubelet renews tokens by this machine's clock, and looks only every minute or so: a machine that
// was suspended has expired tokens until then, and one whose clock was ahead has tokens that are
// not valid yet.
func (f *TokenFile) Trouble() string {
	text, err := f.token.read()
	if err != nil {
		return ""
	}
	token, err := jwt.ParseSigned(text, algorithms)
	if err != nil {
		return ""
	}
	var claims jwt.Claims
	err = token.UnsafeClaimsWithoutVerification(&claims)
	if err != nil || claims.Expiry == nil || claims.IssuedAt == nil {
		return ""
	}
	if late := time.Since(claims.Expiry.Time()); late > 0 {
		return fmt.Sprintf("this service's token expired %s ago; the kubelet replaces it within two minutes "+
			"after a machine was suspended", late.Round(time.Second))
	}
	if early := time.Until(claims.IssuedAt.Time()); early > leeway {
		return fmt.Sprintf("this service's token was issued by a clock that was %s ahead; "+
			"delete this pod, and the next one gets a valid token", early.Round(time.Second))
	}
	return ""
}
