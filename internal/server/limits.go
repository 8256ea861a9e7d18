package server

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// What the server spends on its clients. For each kind of request, the maximum number at a time
// multiplied by the cost of one stays far below a pod's memory limit; test/limits tries that with
// hostile clients, and docs/bounds.md has the calculation.
const (
	// maxConnections counts all connections, including idle ones. The most expensive one sends a
	// header full of tiny fields, which takes 16 times its size in memory.
	maxConnections = 256
	maxHeader      = 4 << 10  // bytes; net/http adds 4 KiB
	maxHandshake   = 64 << 10 // bytes of a TLS handshake and the first header; Go alone would accept 256 KiB
	socketBuffer   = 64 << 10 // bytes that the kernel buffers for a client that does not read

	maxRequests  = 128 // handled at a time, not counting probes
	maxBulk      = 2   // of these with a body over smallBody
	maxScrapes   = 4   // of these for /metrics
	smallBody    = 8 << 10
	maxBody      = 1 << 20 // bytes that ReadBody reads into memory
	slotPatience = time.Second
	// clientPatience is how long a client may take over its request while others
	// wait for its connection: less than a readiness probe waits.
	clientPatience = 2 * time.Second
	// CrowdedPatience replaces both when all connections are in use: the kernel's queue of 4,096
	// then takes a few seconds, including the probes in it.
	CrowdedPatience = 100 * time.Millisecond
)

// Time limits of every connection. A handler that streams or takes long extends them with
// ExtendDeadlines.
const (
	headerTimeout = 10 * time.Second
	// A body may take bodyGrace, plus one second per bodyRate bytes.
	bodyGrace = 10 * time.Second
	bodyRate  = 64 << 10
	// AnswerTimeout is the time from the end of the request to the response: more than a request waits for a database
	// that is away.
	AnswerTimeout = 30 * time.Second
	// sendTimeout is the time left after that to report the timeout.
	sendTimeout = 5 * time.Second
	idleTimeout = 60 * time.Second // between two requests of a connection
	// maxAge is how old a connection can be when it gets another request: then the client is asked to open a new
	// one, for which both sides use their newest certificates, and which may lead to another replica.
	maxAge = time.Minute
)

// Slots limits how many requests do something costly at a time.
type Slots chan struct{}

// NewSlots returns n free slots.
func NewSlots(n int) Slots { return make(Slots, n) }

// Take waits a moment for a free slot and occupies it until the request's handler has returned,
// even if the client already has its response by then. If there is no free slot, the error is a
// 503.
func (s Slots) Take(c *gin.Context) error {
	wait := slotPatience
	if crowded(c.Request.Context()) {
		wait = CrowdedPatience
	}
	patience := time.NewTimer(wait)
	defer patience.Stop()
	select {
	case s <- struct{}{}:
		x := exchangeOf(c)
		x.slots = append(x.slots, s)
		return nil
	case <-patience.C:
	case <-c.Request.Context().Done():
	}
	return &Failure{Status: http.StatusServiceUnavailable, Text: "too many requests at once, try again"}
}

// AtMost returns a middleware that lets through n requests at a time.
func AtMost(n int) gin.HandlerFunc {
	slots := NewSlots(n)
	return func(c *gin.Context) {
		if err := slots.Take(c); err != nil {
			Fail(c, err)
		}
	}
}
