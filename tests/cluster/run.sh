#!/usr/bin/env bash
# The driver on a real one-node Kubernetes (built from Go modules alone, docs/testing.md): what a person applies, deletes and applies again.
# Needs root and /dev/fuse. Six minutes to build the cluster, once; then about a minute and a half.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export KLAB_BIN=$BIN
work=$(mktemp -d /var/tmp/hf-k-XXXXXX)
holdfast=${HOLDFAST:-$here/../../target/debug/holdfast}
manifests=$(cd "$here/../../deploy" && pwd)
driver=csi.holdfast.dev
began=$SECONDS
say() { echo "[$((SECONDS - began)) s] $*"; }
k() { kubectl -n app "$@"; }
fail() {
    echo "FAILED: $*" >&2
    k get pod,pvc >&2 || true
    k get events --sort-by=.lastTimestamp 2>/dev/null | tail -15 >&2 || true
    tail -20 "$W/logs/holdfast.log" >&2 || true
    exit 1
}
finish() {
    status=$?
    kubectl delete namespace app --ignore-not-found --timeout=60s >/dev/null 2>&1 || true
    "$here/down.sh" "$W" --purge || status=1
    rm -rf --one-file-system "$work"
    exit $status
}

"$here/up.sh" "$work/k" >/dev/null
workdir "$work/k"
trap finish EXIT
say "the node is Ready"

# The driver: a process of this machine, its store a directory.
socket=$KROOT/plugins/$driver/csi.sock
lab=$work/d
mkdir -p "$lab/stores/main" "$lab/home" "$(dirname "$socket")"
export HOME=$lab/home HOLDFAST_RUN_DIR=$lab/run HOLDFAST_CACHE=$lab/cache HOLDFAST_LOG_LEVEL=info
"$holdfast" --store "file://$lab/store" store init --recovery-file "$lab/stores/main/key" >/dev/null 2>&1
echo "file://$lab/store" >"$lab/stores/main/url"
serve() {
    start holdfast "$holdfast" csi --endpoint "unix://$socket" --cluster lab --stores "$lab/stores" \
        --state "$KROOT/plugins/$driver/state" --controller --node --node-id "$NODE"
}
serve
"$here/csi.sh" "$W" start $driver "$socket"
kubectl apply -f "$manifests/csidriver.yaml" -f "$manifests/classes.yaml" >/dev/null
say "the driver is registered with the kubelet"

# SIZE CLASS: the same manifests each time, as Git would have them
manifest() {
    cat <<P
apiVersion: v1
kind: Namespace
metadata: {name: app}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app, namespace: app}
automountServiceAccountToken: false
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: app}
spec: {accessModes: [ReadWriteOnce], storageClassName: $2, resources: {requests: {storage: $1}}}
---
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: app}
spec:
  serviceAccountName: app
  terminationGracePeriodSeconds: 1
  dnsPolicy: Default
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: klab.test/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'sleep 100000']
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
P
}
# Until the pod runs; nobody does anything in between.
apply() {
    local since=$SECONDS
    manifest "$@" | kubectl apply -f - >/dev/null || fail "apply"
    k wait --for=condition=Ready pod/pod --timeout=120s >/dev/null || fail "the pod does not run"
    say "the pod runs, $((SECONDS - since)) s after its claim was applied"
}
in_pod() { k exec pod -- sh -c "$1"; }
# Every name with its kind, mode, owners, size, target, extended attributes and content.
tree() {
    local at
    at=$(echo "$KROOT"/pods/*/volumes/kubernetes.io~csi/*/mount)
    (cd "$at" && find . -printf '%P %y %m %U %G %s %l\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum && getfattr -R -h -d -m - .)
}
asked() { HOLDFAST_RECOVERY_KEY_FILE="$lab/stores/main/key" "$holdfast" --store "file://$lab/store" "$@"; }

# 1. What a pod writes is in a commit, by itself.
apply 1Gi holdfast
in_pod 'mkdir -p /v/.config/deep; echo one >/v/.config/deep/x; chmod 600 /v/.config/deep/x; chmod 711 /v/.config
    dd if=/dev/urandom of=/v/data bs=1k count=3000 2>/dev/null; ln /v/data /v/again; ln -s data /v/link; mkfifo /v/fifo; sync'
setfattr -n user.kept -v yes "$(echo "$KROOT"/pods/*/volumes/kubernetes.io~csi/*/mount)/data"
since=$SECONDS
until_ok 60 "a commit that has the file" asked cat lab/app/data:/.config/deep/x >/dev/null || fail "no commit"
say "1: a file is in a commit, $((SECONDS - since)) s after it was looked for first"
before=$(tree)

# 2. The claim is deleted and applied again, smaller, with another class.
k delete pod pod --timeout=60s >/dev/null && k delete pvc data --timeout=60s >/dev/null || fail "deletion"
kubectl create -f - >/dev/null <<P
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: other}
provisioner: $driver
parameters: {store: main, onDelete: retain}
P
apply 500Mi other
[ "$(tree)" = "$before" ] || fail "another tree: $(diff <(echo "$before") <(tree))"
say "2: the claim was deleted and applied again: the same tree"

# 3. So is its whole namespace.
kubectl delete namespace app --timeout=120s >/dev/null || fail "deletion of the namespace"
apply 1Gi holdfast
[ "$(tree)" = "$before" ] || fail "another tree: $(diff <(echo "$before") <(tree))"
say "3: the namespace was deleted and applied again: the same tree"

# 8, in part: the driver is killed and starts anew under a pod that writes.
in_pod 'while :; do echo tick >>/v/ticks || { echo failed >/tmp/failed; break; }; sleep 0.1; done >/dev/null 2>&1 &'
kill -9 "$(cut -d" " -f1 "$W/run/holdfast.pid")"
dead() { ! alive holdfast; }
until_ok 10 "the driver's end" dead
serve
# A sidecar ends when its driver does; in a pod the kubelet starts it again.
"$here/csi.sh" "$W" stop $driver
"$here/csi.sh" "$W" start $driver "$socket"
in_pod 'n=$(wc -l </v/ticks); until [ $(wc -l </v/ticks) -gt $((n + 5)) ]; do sleep 0.1; done; [ ! -e /tmp/failed ]' || fail "the pod saw the restart"
say "8: the driver was killed under a pod that writes: no error in the pod"

# Without a past: each claim of this class has a life of its own, and its removal begins with its deletion.
kubectl delete namespace app --timeout=120s >/dev/null || fail "deletion of the namespace"
apply 1Gi holdfast-scratch
[ "$(in_pod 'ls -A /v')" = "" ] || fail "a fresh volume is not empty"
kubectl delete namespace app --timeout=120s >/dev/null || fail "deletion of the namespace"
gone() { [ -z "$(kubectl get pv -o name)" ]; }
until_ok 120 "the volumes to be deleted" gone || fail "left: $(kubectl get pv)"
asked --json volume list | grep -q '"removing"' || fail "no removal has begun"
! grep -qs " $KROOT/p" /proc/self/mountinfo || fail "mounts are left: $(grep " $KROOT/p" /proc/self/mountinfo)"
say "a fresh volume was fresh, and its removal has begun; nothing is left mounted"
