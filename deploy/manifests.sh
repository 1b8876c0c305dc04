#!/usr/bin/env bash
# deploy/manifests.yaml, for who does without Helm: what the chart gives with deploy/manifests.values.yaml.
# `deploy/manifests.sh` writes it; `deploy/manifests.sh --check` says what differs. HELM names the program (else: helm).
set -euo pipefail
cd "$(dirname "$0")"
helm=${HELM:-helm}
make() {
    cat <<'P'
# Made by deploy/manifests.sh from deploy/chart, not to be edited. Two things are yours: the cluster's name, and a Secret for each store.
#   sed 's/my-cluster/NAME/' deploy/manifests.yaml | kubectl apply -f -
# docs/kubernetes.md says the rest.
P
    "$helm" template holdfast chart --kube-version 1.36.0 --namespace holdfast --values manifests.values.yaml
}
case ${1:-} in
--check) diff -u manifests.yaml <(make) || { echo "deploy/manifests.yaml is not what the chart gives: run deploy/manifests.sh" >&2; exit 1; } ;;
"") make >manifests.yaml.new && mv manifests.yaml.new manifests.yaml ;;
*) echo "usage: deploy/manifests.sh [--check]" >&2; exit 2 ;;
esac
