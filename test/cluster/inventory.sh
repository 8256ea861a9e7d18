#!/usr/bin/env bash
# Prints what is on this machine that a cluster can leave behind, or disturb:
# Docker's containers (which one, in what state, since when), volumes, networks
# and image tags, kubectl's contexts and minikube's profiles, and which of these
# is the current and the active one. One a line, sorted.
set -o errexit -o nounset -o pipefail

{
	docker container ls --all --quiet | xargs --no-run-if-empty \
		docker container inspect --format 'container {{.Name}} {{.Id}} {{.State.Status}} {{.State.StartedAt}}'
	docker volume ls --format 'volume {{.Name}}'
	docker network ls --format 'network {{.Name}} {{.ID}}'
	docker image ls --format 'image {{.Repository}}:{{.Tag}}'
	kubectl config get-contexts --output=name | sed 's/^/context /'
	echo "current-context $(kubectl config current-context 2>/dev/null)"
	find ~/.minikube/profiles -mindepth 1 -maxdepth 1 -printf 'profile %f\n' 2>/dev/null || true
	sed -n 's/^ *"profile": "\(.*\)",\{0,1\}$/active-profile \1/p' ~/.minikube/config/config.json 2>/dev/null || true
} | sort
