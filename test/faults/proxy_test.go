package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// proxy is the network between invoice-app and payment-provider. Its behaviour, which can be
// changed at any time, decides what happens to a request.
type proxy struct {
	server    *httptest.Server
	client    http.Client
	providers []*replica
	behaviour atomic.Pointer[behaviour]
	inFlight  atomic.Int64 // requests that may still reach a provider
	refused   atomic.Int64 // requests whose caller a provider refused

	mu        sync.Mutex
	confirmed map[string]bool // IDs with a 200 from a provider
}

// behaviour responds to a request with this body in the provider's place.
type behaviour func(w http.ResponseWriter, r *http.Request, body []byte)

// newProxy returns a proxy to providers that adds no faults.
func newProxy(providers []*replica) *proxy {
	p := &proxy{providers: providers, confirmed: map[string]bool{}}
	p.client.Timeout = 10 * time.Second
	p.behave(p.relay)
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.inFlight.Add(1)
		defer p.inFlight.Add(-1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			cut()
		}
		(*p.behaviour.Load())(w, r, body)
	}))
	return p
}

func (p *proxy) behave(b behaviour) { p.behaviour.Store(&b) }

// answer is a response of a provider. The zero answer means none.
type answer struct {
	status int
	body   []byte
}

// forward forwards the request to some provider, whether or not its sender is still there.
func (p *proxy) forward(r *http.Request, body []byte) (answer, error) {
	base := anyOf(p.providers).url()
	if base == "" {
		return answer{}, errors.New("this provider does not serve")
	}
	request, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()),
		r.Method, base+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header = r.Header.Clone()
	response, err := p.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		p.confirm(r.URL.Path, text)
	case http.StatusUnauthorized:
		p.refused.Add(1)
	}
	return answer{response.StatusCode, text}, nil
}

// payBatch is the path for a list of payments.
const payBatch = "/payments/batch"

// verdict is a provider's verdict on one payment of a list.
type verdict struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
	Code   string `json:"code,omitempty"`
	Error  string `json:"error,omitempty"`
}

// confirm records the payments that a provider has confirmed with 200.
func (p *proxy) confirm(path string, text []byte) {
	verdicts := []verdict{{Status: http.StatusOK}}
	if path == payBatch {
		_ = json.Unmarshal(text, &verdicts) // an invalid response confirms nothing
	} else {
		_ = json.Unmarshal(text, &verdicts[0])
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range verdicts {
		if v.Status == http.StatusOK {
			p.confirmed[v.ID] = true
		}
	}
}

// confirmations returns the IDs with a 200 from a provider.
func (p *proxy) confirmations() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make([]string, 0, len(p.confirmed))
	for id := range p.confirmed {
		ids = append(ids, id)
	}
	return ids
}

// cut closes the connection without a response.
func cut() { panic(http.ErrAbortHandler) }

func (a answer) write(w http.ResponseWriter) {
	if a.status == 0 {
		cut()
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client may have gone
}

// relay is the behaviour without faults.
func (p *proxy) relay(w http.ResponseWriter, r *http.Request, body []byte) {
	a, _ := p.forward(r, body)
	a.write(w)
}

// lie is the behaviour of responding without asking the provider.
func lie(status int, contentType, text string) behaviour {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// endless is the behaviour of an endless response, until the client closes the connection.
func endless(w http.ResponseWriter, _ *http.Request, _ []byte) {
	w.WriteHeader(http.StatusOK)
	for {
		if _, err := w.Write(bytes.Repeat([]byte(" "), 4096)); err != nil {
			return
		}
	}
}

// silent is the behaviour of never responding.
func silent(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }

// holder forwards requests to the provider and holds its responses back.
type holder struct {
	answered chan answer   // receives each response of the provider
	release  chan struct{} // close it to pass the responses on
}

func (p *proxy) hold() holder {
	h := holder{make(chan answer, 100), make(chan struct{})}
	p.behave(func(w http.ResponseWriter, r *http.Request, body []byte) {
		a, _ := p.forward(r, body)
		h.answered <- a
		select {
		case <-h.release:
			a.write(w)
		case <-r.Context().Done(): // nobody waits any more
		}
	})
	return h
}

// injector is a behaviour that injects random faults.
type injector struct {
	*proxy
	single, batch []fault       // of calls for one payment, and for a list
	slow          time.Duration // delays are up to twice the time limit of a call
	late          time.Duration // the maximum delay of a copy of a request

	mu     sync.Mutex
	rand   *rand.Rand
	counts map[string]int // faults by kind, including those of others
	mine   int            // injected by answer
}

// fault is one kind of fault.
type fault struct {
	kind string
	// after means that the fault spoils a payment that the provider has confirmed, with the
	// response a. Otherwise a is empty, and no provider has been asked yet.
	after bool
	spoil func(i *injector, w http.ResponseWriter, r *http.Request, body []byte, a answer, draw float64)
}

var faultKinds = []fault{
	{"dropped before", false, func(*injector, http.ResponseWriter, *http.Request, []byte, answer, float64) { cut() }},
	{"dropped after", true, func(*injector, http.ResponseWriter, *http.Request, []byte, answer, float64) { cut() }},
	{"request delayed", false,
		func(i *injector, w http.ResponseWriter, r *http.Request, body []byte, _ answer, draw float64) {
			time.Sleep(time.Duration(draw * float64(i.slow)))
			i.relay(w, r, body)
		}},
	{"answer delayed", true, func(i *injector, w http.ResponseWriter, _ *http.Request, _ []byte, a answer, draw float64) {
		time.Sleep(time.Duration(draw * float64(i.slow)))
		a.write(w)
	}},
	{"duplicated at once", false,
		func(i *injector, w http.ResponseWriter, r *http.Request, body []byte, _ answer, _ float64) {
			i.copy(r, body, 0)
			i.relay(w, r, body)
		}},
	{"duplicated late", false,
		func(i *injector, w http.ResponseWriter, r *http.Request, body []byte, _ answer, draw float64) {
			i.copy(r, body, time.Duration(draw*float64(i.late)))
			i.relay(w, r, body)
		}},
	{"500 after commit", true, func(_ *injector, w http.ResponseWriter, _ *http.Request, _ []byte, _ answer, _ float64) {
		answer{http.StatusInternalServerError, []byte(`{"error":"internal error"}`)}.write(w)
	}},
	{"answer truncated", true,
		func(_ *injector, w http.ResponseWriter, _ *http.Request, _ []byte, a answer, draw float64) {
			w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
			a.body = a.body[:int(draw*float64(len(a.body)))]
			a.write(w)
			cut()
		}},
	{"HTML 200", false, func(_ *injector, w http.ResponseWriter, r *http.Request, body []byte, _ answer, _ float64) {
		lie(http.StatusOK, "text/html", "<html><body>Welcome</body></html>")(w, r, body)
	}},
	{"other id", false, func(_ *injector, w http.ResponseWriter, r *http.Request, body []byte, _ answer, draw float64) {
		lie(http.StatusOK, "application/json", fmt.Sprintf(`{"id":"other-%v"}`, draw))(w, r, body)
	}},
	{"no verdict", false, func(_ *injector, w http.ResponseWriter, r *http.Request, body []byte, _ answer, draw float64) {
		statuses := []int{400, 401, 403, 404, 408, 409, 413, 422, 429, 502, 503}
		lie(statuses[int(draw*float64(len(statuses)))], "application/json", `{"error":"not now"}`)(w, r, body)
	}},
}

// batchFaults are the faults of lists of payments only.
var batchFaults = []fault{
	garbled("half of the verdicts", func(all []verdict, draw *rand.Rand) []verdict {
		shuffle(all, draw)
		return all[:len(all)/2]
	}),
	garbled("no verdicts", func([]verdict, *rand.Rand) []verdict { return []verdict{} }),
	garbled("verdicts in another order", func(all []verdict, draw *rand.Rand) []verdict {
		shuffle(all, draw)
		return all
	}),
	garbled("verdicts twice", func(all []verdict, _ *rand.Rand) []verdict { return append(all, all...) }),
	garbled("contradicting verdicts", func(all []verdict, draw *rand.Rand) []verdict {
		for _, v := range all {
			contrary := verdict{v.ID, http.StatusUnprocessableEntity, "payment_mismatch", "this id was paid before"}
			if v.Status == http.StatusUnprocessableEntity {
				contrary = verdict{ID: v.ID, Status: http.StatusOK}
			}
			all = append(all, contrary)
		}
		shuffle(all, draw)
		return all
	}),
	garbled("verdicts for ids never sent", func(all []verdict, draw *rand.Rand) []verdict {
		for n := range all {
			if draw.IntN(2) == 0 {
				all[n].ID = "other-" + all[n].ID
			}
		}
		return all
	}),
	{"no batch endpoint", false,
		func(_ *injector, w http.ResponseWriter, r *http.Request, body []byte, _ answer, draw float64) {
			statuses := []int{http.StatusNotFound, http.StatusMethodNotAllowed}
			lie(statuses[int(draw*float64(len(statuses)))], "application/json", `{"error":"no such path"}`)(w, r, body)
		}},
}

// garbled is a fault that spoils the verdicts on a list that has been paid.
func garbled(kind string, spoil func([]verdict, *rand.Rand) []verdict) fault {
	return fault{kind, true, func(_ *injector, w http.ResponseWriter, _ *http.Request, _ []byte, a answer, draw float64) {
		var verdicts []verdict
		if err := json.Unmarshal(a.body, &verdicts); err != nil {
			panic(err) // the provider's own
		}
		a.body, _ = json.Marshal(spoil(verdicts, rand.New(rand.NewPCG(math.Float64bits(draw), 0))))
		a.write(w)
	}}
}

func shuffle(all []verdict, draw *rand.Rand) {
	draw.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
}

// copy forwards another copy of the request to some provider after wait.
func (i *injector) copy(r *http.Request, body []byte, wait time.Duration) {
	i.inFlight.Add(1)
	go func() {
		defer i.inFlight.Add(-1)
		time.Sleep(wait)
		_, _ = i.forward(r, body) // nobody waits for its response
	}()
}

// answer is the behaviour: about half of the requests meet a fault, and most of those with a list,
// since there are fewer.
func (i *injector) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	kinds, chances := i.single, 2*len(i.single)
	if r.URL.Path == payBatch {
		kinds, chances = i.batch, len(i.batch)+len(i.batch)/3
	}
	i.mu.Lock()
	n, draw := i.rand.IntN(chances+1), i.rand.Float64()
	i.mu.Unlock()
	if n >= len(kinds) {
		i.relay(w, r, body)
		return
	}
	var a answer
	if kinds[n].after {
		if a, _ = i.forward(r, body); a.status != http.StatusOK {
			a.write(w) // nothing to spoil
			return
		}
	}
	i.add(kinds[n].kind)
	i.mu.Lock()
	i.mine++
	i.mu.Unlock()
	kinds[n].spoil(i, w, r, body, a, draw)
}

// injected returns how many faults answer has injected so far.
func (i *injector) injected() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.mine
}

// add counts a fault of a kind.
func (i *injector) add(kind string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.counts[kind]++
}

func (i *injector) count(kind string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.counts[kind]
}
