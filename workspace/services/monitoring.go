package services

import "fmt"

// monitored is the list with what the templates of k8s/monitoring need.
type monitored struct {
	List
	Production bool // its services use TLS, and its databases are replicated
}

// Interval is how often the services are scraped, and their databases compared: while developing, people wait for it.
func (m monitored) Interval() string {
	if m.Production {
		return "15s"
	}
	return "5s"
}

// DatabaseURL returns the URL of the primary of a service's database, for the audit.
func (m monitored) DatabaseURL(s Service) string {
	host, tls := "postgres."+s.Team, "sslmode=disable"
	if m.Production {
		host, tls = s.Team+"-rw.databases", "sslmode=verify-full&sslrootcert=/run/secrets/tls/ca.crt"
	}
	return fmt.Sprintf("postgres://audit@%s.svc:5432/%s?passfile=/run/secrets/database/passfile&%s", host, s.Team, tls)
}

// Audited returns the services whose databases the audit compares, by the prefix of the variable with the URL.
func (m monitored) Audited() map[string]Service {
	audited := map[string]Service{}
	for prefix, name := range map[string]string{"INVOICES": "invoice-app", "PAYMENTS": "payment-provider"} {
		if service, found := m.Find(name); found {
			audited[prefix] = service
		}
	}
	return audited
}

// monitoring returns the content of the generated files in k8s/monitoring, by path.
func (l List) monitoring() map[string]string {
	files := map[string]string{"k8s/monitoring/base/services.yaml": l.fill("monitoring-services.yaml", l)}
	for folder, data := range map[string]monitored{
		"development": {l, false},
		"production":  {l, true},
	} {
		path := "k8s/monitoring/" + folder + "/"
		files[path+"databases.yaml"] = l.fill("monitoring-"+folder+"-databases.yaml", data)
		files[path+"scrape.yaml"] = l.fill("monitoring-scrape.yaml", data)
		files[path+"audit.env"] = l.fill("monitoring-audit.env", data)
	}
	return files
}
