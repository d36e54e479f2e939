#!/usr/bin/env bash
# Makes a base image without any registry of images: Debian's packages, put together by debootstrap (as root).
#
#     images/make_base.sh [NAME]        default: localhost/omnialign-base:bookworm
#
# SUITE and MIRROR choose the release and where its packages come from; IMAGES_ENGINE is buildah with its options.
set -euo pipefail

name=${1:-localhost/omnialign-base:bookworm}
suite=${SUITE:-bookworm}
read -ra engine <<<"${IMAGES_ENGINE:-buildah}"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Python with its venv module runs everything, and the certificates are for what is reached from inside the cluster.
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$folder/root" ${MIRROR:+"$MIRROR"}
rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/* "$folder"/root/usr/share/{doc,man}/*

container=$("${engine[@]}" from scratch)
"${engine[@]}" add --quiet "$container" "$folder/root" / >/dev/null
"${engine[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd /bin/bash "$container"
"${engine[@]}" commit --quiet --rm "$container" "$name"
