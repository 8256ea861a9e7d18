// Package requestid passes the ID of a request on, from service to service, so that one search finds it in all logs.
package requestid

import (
	"context"
	"regexp"

	"github.com/google/uuid"
)

// Header carries the ID, to the next service and back to the client.
const Header = "X-Request-Id"

// plain matches IDs from a client that are safe to log.
var plain = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Accept returns the ID that a client has sent, or a new one if that is missing or not safe to log.
func Accept(sent string) string {
	if plain.MatchString(sent) {
		return sent
	}
	return uuid.NewString()
}

type key struct{}

// With returns a copy of ctx that carries id.
func With(ctx context.Context, id string) context.Context { return context.WithValue(ctx, key{}, id) }

// From returns the ID that ctx carries, or "".
func From(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}
