package cluster

import (
	"os"
	"slices"
	"strings"

	"example.com/invoices/workspace/docker"
)

// proxies returns the proxy variables for the cluster's node, with the cluster's own addresses excluded, if there is a
// proxy. It includes the proxies in the Docker client's configuration, which the node would get in any case.
func (c *Cluster) proxies() []string {
	config, _ := docker.ReadConfig() // doctor reports errors in it
	configured := config.Proxies["default"]
	value := func(name, inDocker string) string {
		for _, name := range []string{name, strings.ToLower(name)} {
			if value := os.Getenv(name); value != "" {
				return value
			}
		}
		return configured[inDocker]
	}
	var set []string
	for name, inDocker := range map[string]string{"HTTP_PROXY": "httpProxy", "HTTPS_PROXY": "httpsProxy"} {
		if proxy := value(name, inDocker); proxy != "" {
			set = append(set, name+"="+proxy, strings.ToLower(name)+"="+proxy)
		}
	}
	if set == nil {
		return nil
	}
	inside := []string{
		"localhost", "127.0.0.1", "::1", c.Registry, c.Node, ".svc", ".cluster.local",
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // Docker, pods and Services
	}
	for _, name := range strings.Split(value("NO_PROXY", "noProxy"), ",") {
		if name = strings.TrimSpace(name); name != "" && !slices.Contains(inside, name) {
			inside = append(inside, name)
		}
	}
	none := strings.Join(inside, ",")
	return append(set, "NO_PROXY="+none, "no_proxy="+none)
}
