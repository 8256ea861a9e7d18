package database

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// Observe registers the metrics of conn's pool, if it has one.
func Observe(registry prometheus.Registerer, conn Connection) {
	if p, ok := conn.(interface{ stat() *pgxpool.Stat }); ok {
		registry.MustRegister(poolMetrics{p.stat})
	}
}

func (p *Pool) stat() *pgxpool.Stat { return p.pool.Stat() }

// poolMetrics collects all metrics from one snapshot of the pool.
type poolMetrics struct{ stat func() *pgxpool.Stat }

var (
	poolConnections = prometheus.NewDesc("database_pool_connections",
		"Connections to PostgreSQL by state: idle, acquired, constructing; max is their limit.", []string{"state"}, nil)
	poolWait = prometheus.NewDesc("database_pool_wait_seconds_total",
		"Time that statements have waited for a connection.", nil, nil)
	poolAcquires = prometheus.NewDesc("database_pool_acquires_total",
		"Connections taken from the pool for a statement.", nil, nil)
)

func (m poolMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- poolConnections
	to <- poolWait
	to <- poolAcquires
}

func (m poolMetrics) Collect(to chan<- prometheus.Metric) {
	now := m.stat()
	for state, n := range map[string]int32{
		"idle": now.IdleConns(), "acquired": now.AcquiredConns(), "constructing": now.ConstructingConns(),
		"max": now.MaxConns(),
	} {
		to <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(n), state)
	}
	to <- prometheus.MustNewConstMetric(poolWait, prometheus.CounterValue, now.AcquireDuration().Seconds())
	to <- prometheus.MustNewConstMetric(poolAcquires, prometheus.CounterValue, float64(now.AcquireCount()))
}
