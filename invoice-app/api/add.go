package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/importer"
	"example.com/invoices/invoice-app/invoice"
)

const (
	// MaxUpload limits a POST of CSV or JSON lines, in bytes. They are read as they arrive; JSON is
	// read into memory, and limited by server.ReadBody.
	MaxUpload = 64 << 20
	// commitTimeout limits the commit that makes an upload's invoices visible.
	commitTimeout = time.Minute
)

// add adds invoices, all or none: POST /invoices. Repeating it succeeds and changes nothing.
func (a *api) add(c *gin.Context) {
	format, err := formatOf(c.GetHeader("Content-Type"))
	switch {
	case err != nil:
		a.fail(c, err)
	case format == importer.JSON:
		a.addJSON(c)
	default:
		a.addUpload(c, format)
	}
}

// formatOf returns the format for a Content-Type: JSON unless it is one of the formats for many
// invoices.
func formatOf(contentType string) (importer.Format, error) {
	mediaType, parameters, _ := mime.ParseMediaType(contentType)
	format, known := map[string]importer.Format{
		"text/csv":             importer.CSV,
		"application/x-ndjson": importer.JSONLines,
	}[mediaType]
	if !known {
		return importer.JSON, nil
	}
	charset := strings.ToLower(parameters["charset"])
	if !slices.Contains([]string{"", "utf-8", "us-ascii", "utf-16"}, charset) {
		return 0, &server.Failure{Status: http.StatusUnsupportedMediaType,
			Text: fmt.Sprintf("the charset %.40q is not supported: send UTF-8", charset)}
	}
	return format, nil
}

func (a *api) addJSON(c *gin.Context) {
	body, err := server.ReadBody(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	invoices, err := Decode(body)
	if err != nil {
		a.fail(c, err)
		return
	}
	added, err := a.store.Add(c.Request.Context(), invoice.All(invoices))
	if err != nil {
		a.fail(c, err)
		return
	}
	if added > 0 && len(invoices) == 1 {
		c.Header("Location", "/invoices/"+url.PathEscape(invoices[0].ID))
	}
	answerAdded(c, importer.Result{Added: added, Existing: len(invoices) - added})
}

func (a *api) addUpload(c *gin.Context, format importer.Format) {
	body, err := server.OpenBody(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	result, err := Import(c, a.store, body, importer.Options{Format: format})
	if err != nil {
		a.fail(c, err)
		return
	}
	answerAdded(c, result)
}

// Import is importer.Import for a text in the request's body.
func Import(c *gin.Context, store invoice.Store, text io.Reader, options importer.Options) (importer.Result, error) {
	timed := readerFunc(func(p []byte) (int, error) {
		n, err := text.Read(p)
		if errors.Is(err, io.EOF) {
			server.ExtendDeadlines(c, commitTimeout)
		}
		return n, err
	})
	return importer.Import(c.Request.Context(), store, timed, options)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func answerAdded(c *gin.Context, result importer.Result) {
	status := http.StatusOK
	if result.Added > 0 {
		status = http.StatusCreated
	}
	body := gin.H{"added": result.Added, "existing": result.Existing}
	if len(result.Ignored) > 0 {
		body["ignored"] = result.Ignored
	}
	c.JSON(status, body)
}
