package server

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// What the server spends on its clients. For each kind of request, its number
// at once times what one of them costs stays far below a pod's memory limit;
// test/limits tries that with hostile clients, and docs/bounds.md has the sum.
const (
	// maxConnections counts them all, idle ones included. The worst is one that
	// sends a header full of tiny fields: 16 times its size in memory.
	maxConnections = 256
	maxHeader      = 4 << 10  // bytes; net/http adds 4 KiB
	socketBuffer   = 64 << 10 // bytes that the kernel keeps for a client that does not read

	maxRequests  = 128 // that are worked on at once, probes not counted
	maxBulk      = 2   // of these, with a body over smallBody
	maxScrapes   = 4   // of these, for /metrics
	smallBody    = 8 << 10
	maxBody      = 1 << 20 // bytes that ReadBody reads into memory
	slotPatience = time.Second
	// clientPatience is how long a client may take over its request while others
	// wait for its connection: less than a readiness probe waits.
	clientPatience = 2 * time.Second
	// crowdedPatience takes the place of either when there are as many connections
	// as there may be: the kernel's queue of 4,096 is through in a few seconds,
	// probes in it.
	crowdedPatience = 100 * time.Millisecond
)

// Limits of every connection in time. A handler that streams or takes long
// extends them, see ExtendDeadlines.
const (
	headerTimeout = 10 * time.Second
	// A body has bodyGrace, and a second more for each bodyRate bytes of it.
	bodyGrace = 10 * time.Second
	bodyRate  = 64 << 10
	// AnswerTimeout is from the end of a request's header and body to its answer.
	AnswerTimeout = 10 * time.Second
	// sendTimeout is what is left then to send that the time is over.
	sendTimeout = 5 * time.Second
	idleTimeout = 60 * time.Second // between two requests of a connection
)

// Slots bounds how many requests do something costly at the same time.
type Slots chan struct{}

// NewSlots returns n free slots.
func NewSlots(n int) Slots { return make(Slots, n) }

// Take waits a moment for a free slot and occupies it until the request's
// handler has returned, even if the client has its answer by then. If all are
// occupied, the error is a 503.
func (s Slots) Take(c *gin.Context) error {
	wait := slotPatience
	if crowded(c.Request.Context()) {
		wait = crowdedPatience
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

// AtMost is a middleware that lets n requests at a time through.
func AtMost(n int) gin.HandlerFunc {
	slots := NewSlots(n)
	return func(c *gin.Context) {
		if err := slots.Take(c); err != nil {
			Fail(c, err)
		}
	}
}
