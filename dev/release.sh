#!/usr/bin/env bash
# Publishes both services for production.
#
# usage: dev/release.sh REGISTRY     (make release REGISTRY=registry.example.com/invoices)
#
# Builds the images of both services and pushes them to REGISTRY, each with its list of parts (an SBOM:
# CycloneDX, as an OCI referrer of the image). Then writes the images' digests into
# k8s/production/kustomization.yaml, and REGISTRY as where images may come from. That file is to be
# committed: it is what runs in production.
#
# The same source, Go and GOARCH (amd64, unless it says otherwise) give the same digests. Logging in is crane's (crane auth login).
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 1 1 "$@"
[[ $1 ]] || arguments 1 1 # make release without REGISTRY
registry=$1
cd "$(dirname "$0")/.."
export GOARCH=${GOARCH:-amd64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

CYCLONEDX_GOMOD=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
SBOM_TYPE=application/vnd.cyclonedx+json
OVERLAY=k8s/production/kustomization.yaml

# add TYPE: puts standard input into the layout as a blob, and prints its descriptor.
add() {
	local digest
	cat >"$layout/blob"
	digest=$(sha256sum "$layout/blob" | cut -d ' ' -f 1)
	printf '{"mediaType": "%s", "digest": "sha256:%s", "size": %d}' "$1" "$digest" "$(wc -c <"$layout/blob")"
	mv "$layout/blob" "$layout/blobs/sha256/$digest"
}

# attach FILE IMAGE: pushes an SBOM beside the image, given by digest, that it is of. What says of
# which one it is ("subject") is the OCI image specification's; registries that cannot be asked for
# it get a tag that is named after the image's digest.
attach() {
	layout=$work/layout
	rm -rf "$layout"
	mkdir -p "$layout/blobs/sha256"
	local subject config layer manifest
	subject=$(crane manifest "$2" | add application/vnd.oci.image.manifest.v1+json)
	config=$(printf '{}' | add application/vnd.oci.empty.v1+json)
	layer=$(add "$SBOM_TYPE" <"$1")
	manifest=$(
		add application/vnd.oci.image.manifest.v1+json <<MANIFEST
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "artifactType": "$SBOM_TYPE",
  "config": $config,
  "layers": [$layer],
  "subject": $subject
}
MANIFEST
	)
	printf '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
	printf '{"schemaVersion": 2, "manifests": [%s]}' "$manifest" >"$layout/index.json"
	crane push "$layout" "${2%@*}@$(grep -o 'sha256:[0-9a-f]*' <<<"$manifest")" >/dev/null
}

for service in invoice-app payment-provider; do
	image=$(EXPECTED_REGISTRY=$registry dev/build-image.sh "$service" "$work")
	digest=$(crane digest "$image")
	# Without a time or a random number: it is made from the program alone.
	go run "$CYCLONEDX_GOMOD" bin -json -std -noserial -notimestamp -output="$work/sbom.json" \
		"$work/$service/$service" 2>"$work/log" || {
		cat "$work/log" >&2
		exit 1
	}
	attach "$work/sbom.json" "$registry/$service@$digest"
	sed -e "/^images:/,\${/^  - name: $service\$/,/digest:/{s|newName:.*|newName: $registry/$service|; s|digest:.*|digest: $digest|}}" \
		-e "s#images=^(.*/(invoice-app#images=^(${registry//./[.]}/(invoice-app#" \
		"$OVERLAY" >"$work/overlay"
	cat "$work/overlay" >"$OVERLAY"
	echo "$registry/$service@$digest"
done
