package loop

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-dap"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestBreakpoint attaches to a service as an editor with .vscode/launch.json does, and stops at a breakpoint.
func TestBreakpoint(t *testing.T) {
	long(t)
	s := tiltUp(t, invoiceApp.name, paymentProvider.name, "--", "--debug", invoiceApp.name)
	s.saveVersion(invoiceApp, "debugged")
	s.awaitVersion(invoiceApp, 1, "debugged")

	var launch struct {
		Configurations []struct {
			Request, Mode, Host string
			Port                int
			SubstitutePath      []map[string]string `json:"substitutePath"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(s.read(".vscode/launch.json")), &launch))
	configuration := launch.Configurations[0]
	for _, rule := range configuration.SubstitutePath {
		rule["from"] = os.Expand(rule["from"], func(name string) string {
			return map[string]string{"workspaceFolder": s.checkout}[name]
		})
	}

	// The port is forwarded a moment after the pod has started.
	address := net.JoinHostPort(configuration.Host, strconv.Itoa(configuration.Port))
	var editor *adapter
	require.Eventually(t, func() bool {
		editor = connect(t, address)
		return editor != nil
	}, enough, pause)
	defer editor.Close()
	arguments, err := json.Marshal(map[string]any{
		"request": configuration.Request, "mode": configuration.Mode, "substitutePath": configuration.SubstitutePath})
	require.NoError(t, err)
	editor.send(&dap.AttachRequest{Request: editor.request("attach"), Arguments: arguments})
	await[*dap.InitializedEvent](editor)

	const file, statement = "invoice-app/api/get.go", "server.ID(c)"
	before, _, found := strings.Cut(s.read(file), statement)
	require.True(t, found)
	line := strings.Count(before, "\n") + 1
	editor.send(&dap.SetBreakpointsRequest{Request: editor.request("setBreakpoints"),
		Arguments: dap.SetBreakpointsArguments{
			Source: dap.Source{Path: s.file(file)}, Breakpoints: []dap.SourceBreakpoint{{Line: line}}}})
	set := await[*dap.SetBreakpointsResponse](editor)
	require.True(t, set.Body.Breakpoints[0].Verified, "%+v", set.Body.Breakpoints)
	editor.send(&dap.ConfigurationDoneRequest{Request: editor.request("configurationDone")})
	await[*dap.ConfigurationDoneResponse](editor)

	// A new pod is Ready a moment before the network policies admit connections to it.
	require.Eventually(t, func() bool {
		return s.running(s.invoiceApp) == s.versions[invoiceApp.name+" debugged"]
	}, enough, pause, "invoice-app responds outside the cluster")
	answered := make(chan int, 1)
	go func() {
		response, err := (&http.Client{Timeout: time.Minute}).Get(s.invoiceApp + "/invoices/none")
		if err != nil {
			answered <- 0
			return
		}
		response.Body.Close()
		answered <- response.StatusCode
	}()
	stopped := await[*dap.StoppedEvent](editor)
	assert.Equal(t, "breakpoint", stopped.Body.Reason)
	editor.send(&dap.StackTraceRequest{Request: editor.request("stackTrace"),
		Arguments: dap.StackTraceArguments{ThreadId: stopped.Body.ThreadId}})
	top := await[*dap.StackTraceResponse](editor).Body.StackFrames[0]
	assert.Equal(t, s.file(file), top.Source.Path, "the path on this machine")
	assert.Equal(t, line, top.Line)
	select {
	case status := <-answered:
		t.Fatalf("a program that is stopped at a breakpoint responded with status %d", status)
	default:
	}

	editor.send(&dap.ContinueRequest{Request: editor.request("continue"),
		Arguments: dap.ContinueArguments{ThreadId: stopped.Body.ThreadId}})
	assert.Equal(t, http.StatusNotFound, <-answered)
	editor.send(&dap.DisconnectRequest{Request: editor.request("disconnect")})
	await[*dap.DisconnectResponse](editor)

	// A save restarts the program, still under the debugger.
	s.saveVersion(invoiceApp, "again")
	s.awaitVersion(invoiceApp, 1, "again")
	require.Eventually(t, func() bool {
		editor := connect(t, address)
		if editor != nil {
			editor.Close()
		}
		return editor != nil
	}, enough, pause, "the debugger responds again")
}

// adapter is a connection to the debugger, in the Debug Adapter Protocol.
type adapter struct {
	*testing.T
	net.Conn
	reader   *bufio.Reader
	requests int
}

// connect returns nil if no debugger responds yet.
func connect(t *testing.T, address string) *adapter {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return nil
	}
	a := &adapter{T: t, Conn: connection, reader: bufio.NewReader(connection)}
	_ = connection.SetDeadline(time.Now().Add(2 * time.Second))
	err = dap.WriteProtocolMessage(connection, &dap.InitializeRequest{Request: a.request("initialize"),
		Arguments: dap.InitializeRequestArguments{AdapterID: "go", PathFormat: "path", LinesStartAt1: true}})
	if err == nil {
		_, err = dap.ReadProtocolMessage(a.reader)
	}
	if err != nil {
		connection.Close()
		return nil
	}
	_ = connection.SetDeadline(time.Now().Add(enough))
	return a
}

func (a *adapter) request(command string) dap.Request {
	a.requests++
	return dap.Request{ProtocolMessage: dap.ProtocolMessage{Seq: a.requests, Type: "request"}, Command: command}
}

func (a *adapter) send(message dap.Message) {
	a.Helper()
	require.NoError(a, dap.WriteProtocolMessage(a.Conn, message))
}

// await reads until it gets a message of that type.
func await[M dap.Message](a *adapter) M {
	a.Helper()
	for {
		message, err := dap.ReadProtocolMessage(a.reader)
		require.NoError(a, err)
		switch message := message.(type) {
		case M:
			return message
		case *dap.ErrorResponse:
			a.Fatalf("%s: %+v", message.Command, message.Body.Error)
		}
	}
}
