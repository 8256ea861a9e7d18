package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// bodies describes the request bodies that a route accepts.
type bodies struct {
	max   int64
	types []string
}

// smallJSON is what a route accepts by default.
var smallJSON = bodies{smallBody, []string{"application/json"}}

// AcceptBody lets a route accept request bodies of the given types and of up to maxBytes, instead
// of a few KiB of JSON.
func (s *Server) AcceptBody(method, path string, maxBytes int64, types ...string) {
	s.bodies[method+" "+path] = bodies{maxBytes, types}
}

// receive reads the beginning of the request's body, which is all of it unless the route accepts
// larger ones. The server notices that the client has gone only after the whole body has been
// read.
func (s *Server) receive(c *gin.Context) {
	x, r := exchangeOf(c), c.Request
	if r.ContentLength == 0 {
		x.allow(AnswerTimeout)
		return
	}
	accepted, declared := s.bodies[r.Method+" "+c.FullPath()]
	if !declared {
		accepted = smallJSON
	}
	whole := &body{x: x, r: http.MaxBytesReader(nil, r.Body, accepted.max)}
	r.Body = http.NoBody // handlers use ReadBody or OpenBody
	start, err := io.ReadAll(io.LimitReader(whole, min(smallBody, accepted.max)+1))
	if err == nil && len(start) > 0 && r.Method != http.MethodGet {
		if wrong := rightType(r, accepted.types); wrong != nil {
			err = wrong
		}
	}
	if err != nil {
		Fail(c, err)
		return
	}
	x.body = bytes.NewReader(start)
	if len(start) > smallBody {
		x.body, x.bulk = io.MultiReader(x.body, whole), true
	}
}

// body is a request body that must arrive in time. The errors of Read are Failures.
type body struct {
	x      *exchange
	r      io.Reader
	read   int64
	waited time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	left := bodyGrace + time.Duration(b.read)*time.Second/bodyRate - b.waited
	b.x.deadlines(left+sendTimeout, left, left+2*sendTimeout)
	start := time.Now()
	n, err := b.r.Read(p)
	b.waited += time.Since(start)
	b.read += int64(n)
	b.x.allow(AnswerTimeout)

	var tooLarge *http.MaxBytesError
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case errors.As(err, &tooLarge):
		err = &Failure{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf(
			"the body is over %d bytes", tooLarge.Limit)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &Failure{Status: http.StatusRequestTimeout, Text: fmt.Sprintf(
			"the body arrives too slowly: %d bytes in %s", b.read, b.waited.Round(time.Second))}
	default:
		err = malformed("the body ended early")
	}
	return n, err
}

// OpenBody returns the request's body, to be read as it arrives. Its errors are Failures: 413 if
// the body exceeds the route's limit, 408 if it arrives too slowly, 400 if it ends early, and 503
// if too many large bodies are being read.
func OpenBody(c *gin.Context) (io.Reader, error) {
	x := exchangeOf(c)
	if x.bulk {
		if err := x.server.bulk.Take(c); err != nil {
			return nil, err
		}
		x.bulk = false // once
	}
	return x.body, nil
}

// ReadBody returns the whole body, of at most 1 MiB. Its errors are those of OpenBody, and 400 if
// the body is empty.
func ReadBody(c *gin.Context) ([]byte, error) {
	r, err := OpenBody(c)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxBody:
		return nil, &Failure{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf(
			"the body is over %d bytes", maxBody)}
	case len(content) == 0:
		return nil, malformed("the body is empty")
	}
	return content, nil
}

// Decode reads one JSON value into into. It is stricter than encoding/json where money is at stake
// (duplicate keys and text after the value are errors), and as lenient as the original API
// elsewhere: unknown fields are ignored, and the case of keys does not matter.
func Decode(body []byte, into any) error {
	err := json.Unmarshal(body, into, json.MatchCaseInsensitiveNames(true))
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	var failure *Failure // of a type with its own UnmarshalJSONFrom
	switch {
	case errors.As(err, &failure):
		return failure
	case errors.As(err, &syntax):
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return malformed("the body has a duplicate key: %s", syntax.JSONPointer)
		}
		return malformed("the body is not JSON, at byte %d", syntax.ByteOffset)
	case errors.As(err, &semantic):
		where := "the body"
		if semantic.JSONPointer != "" {
			where = string(semantic.JSONPointer)
		}
		return malformed("%s is of the wrong type: %s", where, semantic.JSONKind)
	case err != nil:
		return malformed("the body cannot be read")
	}
	return nil
}
