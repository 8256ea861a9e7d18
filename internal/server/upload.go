package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/gin-gonic/gin"
)

// Upload bounds a body that is read piece by piece, whatever its sender does.
type Upload struct {
	MaxBytes int64
	Stall    time.Duration // longest wait for the next piece
	Time     time.Duration // longest wait for all of them
	Finish   time.Duration // what remains for the work and the answer once the body has ended
}

const bodyKey = "body" // of the whole body, without the limit of those that are read at once

// Body returns the body of c, within u instead of the limits of other bodies.
// Its errors are io.EOF, or a *Failure with the answer that they get.
func (u Upload) Body(c *gin.Context) io.Reader {
	whole, _ := c.MustGet(bodyKey).(io.ReadCloser)
	return &upload{Upload: u, c: c, body: http.MaxBytesReader(c.Writer, whole, u.MaxBytes), end: time.Now().Add(u.Time)}
}

type upload struct {
	Upload
	c    *gin.Context
	body io.Reader
	end  time.Time
}

func (u *upload) Read(p []byte) (int, error) {
	ExtendDeadlines(u.c, min(u.Stall, time.Until(u.end)))
	n, err := u.body.Read(p)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		ExtendDeadlines(u.c, u.Finish)
		return n, err
	case errors.As(err, &tooLarge):
		err = &Failure{http.StatusRequestEntityTooLarge, "", fmt.Sprintf("the body is over %d bytes", tooLarge.Limit)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &Failure{http.StatusRequestTimeout, "", fmt.Sprintf(
			"the body did not arrive in time: its next piece within %s, and all of it within %s", u.Stall, u.Time)}
	default:
		err = malformed("the body ended early")
	}
	ExtendDeadlines(u.c, u.Stall) // for the answer
	return n, err
}
