package api

import (
	"errors"
	"fmt"
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

// uploads bounds the POST /invoices of CSV and of JSON lines, which are read as
// they arrive and may be many.
type uploads struct {
	each server.Upload
	// running holds one for each that is running: it may keep a connection to
	// the database for as long as its sender takes.
	running chan struct{}
}

func newUploads() uploads {
	return uploads{
		each: server.Upload{
			MaxBytes: 64 << 20,
			Stall:    30 * time.Second,
			Time:     10 * time.Minute,
			Finish:   time.Minute,
		},
		running: make(chan struct{}, 2),
	}
}

// add keeps new invoices, all or none: POST /invoices. Sent again, it changes
// nothing and succeeds.
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

// formatOf returns how a body of contentType is read. What is not one of the
// formats for many invoices is taken for JSON.
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
			Text: fmt.Sprintf("the charset %.40q cannot be read: send UTF-8", charset)}
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
	select {
	case a.uploads.running <- struct{}{}:
		defer func() { <-a.uploads.running }()
	default:
		c.Header("Retry-After", "5")
		a.fail(c, &server.Failure{Status: http.StatusServiceUnavailable,
			Text: fmt.Sprintf("%d uploads are running, which is as many as there may be: try again", cap(a.uploads.running))})
		return
	}
	result, err := importer.Import(c.Request.Context(), a.store, a.uploads.each.Body(c), importer.Options{Format: format})
	var wrong *importer.Error
	switch {
	case errors.As(err, &wrong):
		a.fail(c, refusal(err))
	case err != nil:
		a.fail(c, err)
	default:
		answerAdded(c, result)
	}
}

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
