package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/payment-provider/payment"
)

// get returns one payment: GET /payments/{id}.
func (a *api) get(c *gin.Context) {
	id, ok := server.ID(c)
	p, err := payment.Payment{}, payment.ErrNotFound
	if ok {
		p, err = a.store.Get(c.Request.Context(), id)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	number, err := p.Amount.Number()
	if err != nil {
		a.fail(c, fmt.Errorf("show payment %q: %w", p.ID, err))
		return
	}
	c.JSON(http.StatusOK, struct {
		ID        string      `json:"id"`
		Value     json.Number `json:"value"`
		Currency  string      `json:"currency"`
		CreatedAt time.Time   `json:"createdAt"`
	}{p.ID, json.Number(number), p.Amount.Currency, p.TakenAt})
}
