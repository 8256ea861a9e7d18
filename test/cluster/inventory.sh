#!/usr/bin/env bash
# Prints what is on this machine's Docker: containers, volumes, networks and
# image tags, one a line, sorted.
set -o errexit -o nounset -o pipefail

{
	docker container ls --all --format 'container {{.Names}}'
	docker volume ls --format 'volume {{.Name}}'
	docker network ls --format 'network {{.Name}}'
	docker image ls --format 'image {{.Repository}}:{{.Tag}}'
} | sort
