#!/usr/bin/env bash
# The driver on a real one-node Kubernetes (built from Go modules alone, docs/testing.md), installed as a person does it: the image of
# deploy/image.py, the chart of deploy/chart, an S3 server as the store. What is applied, deleted and applied again; and every way in which
# the driver's pod goes away under a pod that writes.
# Needs root and /dev/fuse. Seven minutes to build the cluster, once; then about four.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export KLAB_BIN=$BIN
work=$(mktemp -d /var/tmp/hf-k-XXXXXX)
root=$(cd "$here/../.." && pwd)
holdfast=${HOLDFAST:-$root/target/debug/holdfast}
driver=csi.holdfast.dev
began=$SECONDS
say() { echo "[$((SECONDS - began)) s] $*"; }
k() { kubectl -n app "$@"; }
h() { kubectl -n holdfast "$@"; }
fail() {
    echo "FAILED: $*" >&2
    k get pod,pvc >&2 || true
    k get events --sort-by=.lastTimestamp 2>/dev/null | tail -15 >&2 || true
    h get pod >&2 || true
    for of in node/driver node/registrar controller/driver controller/provisioner controller/resizer keeper/keeper; do
        echo "-- $of" >&2
        h logs -l app.kubernetes.io/component=${of%/*} -c ${of#*/} --tail=15 >&2 || true
    done
    tail -n 5 "$lab"/run/*.log >&2 || true
    exit 1
}
finish() {
    status=$?
    kubectl delete namespace app --ignore-not-found --timeout=60s >/dev/null 2>&1 || true
    helm uninstall holdfast -n holdfast --wait --timeout 60s >/dev/null 2>&1 || true
    "$here/down.sh" "$W" --purge || status=1
    rm -rf --one-file-system "$work"
    exit $status
}

"$here/up.sh" "$work/k" >/dev/null
workdir "$work/k"
trap finish EXIT
say "the node is Ready"

# The store: a bucket of an S3 server, which knows nothing of Kubernetes. It has a name, as stores have.
lab=$work/d
mkdir -p "$lab/s3/bucket" "$lab/home"
person=$HOME
export HOME=$lab/home ROOT_ACCESS_KEY=lab ROOT_SECRET_KEY=lab-secret-key
start s3 "$("$root/tests/servers/s3.sh")" --port "$NODE_IP:7070" --health /health --quiet --keep-alive posix "$lab/s3"
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$ROOT_ACCESS_KEY" "$ROOT_SECRET_KEY" >"$lab/credentials"
url="s3://bucket/volumes?endpoint=http://$NODE_IP:7070&credentials="
store=$url$lab/credentials
until_ok 30 "the store" "$holdfast" --store "$store" store init --recovery-file "$lab/key" || fail "no store"

# Images: ours, and the sidecars as this cluster has them. Two names of one image stand for two versions.
HOME=$person "$root/deploy/image.py" --holdfast "$holdfast" --any-size --out "$lab/image" --tag klab.test/holdfast:one
take() { ctr images import --snapshotter "${KLAB_SNAPSHOTTER:-overlayfs}" "$1" >/dev/null; }
take "$lab/image/holdfast.tar"
ctr images tag klab.test/holdfast:one klab.test/holdfast:two >/dev/null
for sidecar in csi-provisioner csi-resizer labtool; do
    mkdir -p "$lab/$sidecar/tmp"
    cp "$BIN/$sidecar" "$lab/$sidecar/"
    entry=/$sidecar
    [ $sidecar != labtool ] || entry=/labtool,csi-register
    "$BIN/labtool" mkimage -t klab.test/$sidecar:1 -dir "$lab/$sidecar" -entrypoint "$entry" -o "$lab/sidecar.tar"
    take "$lab/sidecar.tar"
    rm -rf "${lab:?}/$sidecar" "$lab/sidecar.tar"
done
say "images are in containerd"

# The chart: what is wrong is refused, and what is committed beside it is what it gives.
HELM=$BIN/helm "$root/deploy/manifests.sh" --check || fail "manifests"
! helm template x "$root/deploy/chart" --kube-version 1.36.0 >/dev/null 2>&1 || fail "a chart without the cluster's name"
! helm template x "$root/deploy/chart" --kube-version 1.36.0 --set cluster=lab --set node.cachDir=/x >/dev/null 2>&1 || fail "an unknown value"
# As docs/kubernetes.md says it.
kubectl create namespace holdfast >/dev/null
kubectl label namespace holdfast pod-security.kubernetes.io/enforce=privileged >/dev/null
h create secret generic holdfast-store-main --from-literal=url="${url}/etc/holdfast/stores/main/credentials" \
    --from-file=key="$lab/key" --from-file=credentials="$lab/credentials" >/dev/null
cat >"$lab/values.yaml" <<V
cluster: lab
image: {repository: klab.test/holdfast, tag: one, pullPolicy: Never}
kubeletDir: $KROOT
node: {cacheDir: $lab/cache, runDir: $lab/run, terminationGracePeriodSeconds: 60}
sidecars:
  provisioner: {image: "klab.test/csi-provisioner:1"}
  resizer: {image: "klab.test/csi-resizer:1"}
  registrar: {image: "klab.test/labtool:1"}
janitor: {stores: [{name: main, secret: holdfast-store-main}]}
V
# All that the chart can make is taken by the API server, and the rest of the manifests.
helm template holdfast "$root/deploy/chart" --kube-version 1.36.0 -n holdfast --set cluster=lab --set 'janitor.stores[0].name=main' --set 'janitor.stores[0].secret=other' |
    kubectl apply --dry-run=server -f - >/dev/null || fail "the API server does not take the chart"
kubectl apply --dry-run=server -f "$root/deploy/manifests.yaml" >/dev/null || fail "the API server does not take the manifests"
release() { helm "$@" -n holdfast --wait --timeout 120s >/dev/null || fail "helm $1"; }
chart() { release "$1" holdfast "$root/deploy/chart" -f "$lab/values.yaml" "${@:2}"; }
registered() { kubectl get csinode "$NODE" -o 'jsonpath={.spec.drivers[*].name}' | tr ' ' '\n' | grep -qxF $driver; }
installed() {
    h rollout status daemonset/holdfast-node --timeout=120s >/dev/null || fail "the driver does not come"
    until_ok 60 "the kubelet to take $driver" registered || fail "not registered"
}
chart install
installed
say "the driver is installed and registered with the kubelet"

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
asked() { HOLDFAST_RECOVERY_KEY_FILE="$lab/key" "$holdfast" --store "$store" "$@"; }

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

# 5, in part. An older commit, asked for while the volume is in use; the pod's next start has it.
newest='import json, sys; print(max(one["record"] for one in json.load(sys.stdin)["records"] if one["what"] == "commit"))'
commit=$(asked --json history lab/app/data | python3 -c "$newest")
in_pod 'echo two >/v/.config/deep/x; rm /v/data; sync'
two() { [ "$(asked cat lab/app/data:/.config/deep/x)" = two ]; }
until_ok 60 "a commit of the change" two || fail "no commit"
asked restore lab/app/data --at "$commit" --on-next-mount >/dev/null || fail "restore"
k delete pod pod --timeout=60s >/dev/null || fail "deletion of the pod"
apply 1Gi holdfast
[ "$(tree)" = "$before" ] || fail "another tree: $(diff <(echo "$before") <(tree))"
say "5: restored to an older commit by a restart of the pod: the same tree"

# 8. The driver goes away, in each of its ways, under a pod that writes, to an open file and to new ones, with fsync.
in_pod 'exec 3>>/v/open; while [ ! -e /tmp/stop ]; do
        date +%s >&3 && date +%s >>/v/ticks && dd if=/dev/zero of=/v/synced bs=4k count=1 conv=fsync 2>/dev/null && cat /v/.config/deep/x >/dev/null ||
            { echo failed >/tmp/failed; break; }
        sleep 0.1
    done >/dev/null 2>&1 &'
# What goes away must be gone first: its successor is another.
goes_on() {
    in_pod 'n=$(wc -l </v/ticks); until [ -e /tmp/failed ] || [ $(wc -l </v/ticks) -gt $((n + 5)) ]; do sleep 0.1; done; [ ! -e /tmp/failed ]' ||
        fail "the pod saw it: $1"
    say "8: $1: no error in the pod; the longest pause until now $(in_pod 'awk "NR > 1 && \$1 - last > most { most = \$1 - last } { last = \$1 } END { print most + 0 }" /v/ticks') s"
}
goes_on "nothing yet"
h delete pod -l app.kubernetes.io/component=node --timeout=120s >/dev/null || fail "deletion of the driver"
installed
goes_on "the driver's pod was deleted"
h delete pod -l app.kubernetes.io/component=node --grace-period=0 --force >/dev/null 2>&1 || fail "deletion of the driver"
installed
goes_on "it was deleted by force"
chart upgrade --set image.tag=two
installed
goes_on "it was upgraded"
release rollback holdfast 1
installed
goes_on "it was rolled back"
h delete pod -l app.kubernetes.io/component=keeper --timeout=120s >/dev/null || fail "deletion of the keeper"
status() { h exec ds/holdfast-node -c driver -- holdfast status "$@"; }
kept() { status --json | grep -q '"keeper"'; }
until_ok 30 "the new keeper to hold the mount" kept || fail "not kept"
goes_on "the keeper's pod was deleted"
h delete pod -l app.kubernetes.io/component=node --timeout=120s >/dev/null || fail "deletion of the driver"
installed
goes_on "the driver's pod was deleted under the new keeper"
release uninstall holdfast
chart install
installed
goes_on "the chart was uninstalled and installed again"
in_pod 'touch /tmp/stop'
safe() { status | grep -q '^SAFE *lab/app/data'; }
until_ok 30 "status to say SAFE" safe || fail "status: $(status)"

# The janitor, at once and not at night: in its own pod, without privileges.
h create job --from=cronjob/holdfast-janitor-main by-hand >/dev/null
h wait --for=condition=Complete job/by-hand --timeout=90s >/dev/null || fail "the janitor: $(h logs job/by-hand)"
say "the janitor: $(h logs job/by-hand | tail -1)"

# Without a past: each claim of this class has a life of its own, and its removal begins with its deletion.
kubectl delete namespace app --timeout=120s >/dev/null || fail "deletion of the namespace"
apply 1Gi holdfast-scratch
[ "$(in_pod 'ls -A /v')" = "" ] || fail "a fresh volume is not empty"
kubectl delete namespace app --timeout=120s >/dev/null || fail "deletion of the namespace"
gone() { [ -z "$(kubectl get pv -o name)" ]; }
until_ok 120 "the volumes to be deleted" gone || fail "left: $(kubectl get pv)"
asked --json volume list | grep -q '"removing"' || fail "no removal has begun"
mounts() { grep " $KROOT/p" /proc/self/mountinfo | grep -v "kubernetes.io~\(projected\|secret\|empty-dir\)" || true; }
[ -z "$(mounts)" ] || fail "mounts are left: $(mounts)"
say "a fresh volume was fresh, and its removal has begun; nothing is left mounted"
forbidden=$(h logs -l app.kubernetes.io/instance=holdfast --all-containers --tail=-1 | grep -i forbidden || true)
[ -z "$forbidden" ] || fail "the API refused: $forbidden"
