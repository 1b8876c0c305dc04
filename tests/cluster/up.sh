#!/usr/bin/env bash
# up.sh WORKDIR: a one-node Kubernetes (etcd, apiserver, controller-manager,
# scheduler, containerd + runc, kubelet) with all its state in WORKDIR. Prints the kubeconfig's path last, once the node is Ready. May be
# run again at any time: what runs is left alone, what has died is started.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
workdir "${1:-}"
exec 9>"$W/.lock"; flock 9
t0=$SECONDS
for c in ip:iproute2 mount:mount mountpoint:util-linux flock:util-linux; do
  command -v "${c%:*}" >/dev/null || apt-get -q -y install "${c#*:}" >&2
done
"$here/build.sh" >&2
BIN=$(cd "$BIN" && pwd)
say() { echo "[$((SECONDS - t0)) s] $*" >&2; }
if [ "$KROOT" != "$W/kubelet" ] && [ ! -f "$W/kubelet-root" ] && [ -n "$(ls -A "$KROOT" 2>/dev/null)" ]; then
  echo "$KROOT is not empty, and down.sh would empty it" >&2; exit 1
fi
if [ ! -f "$W/made" ]; then   # fixed paths that the programs make; down.sh removes only these
  for d in /run/containerd /var/lib/cni /var/lib/kubelet /var/log/containers; do [ -e $d ] || echo $d; done >"$W/made"
fi
mkdir -p "$W"/{run,logs,etc,etcd,containerd,cni/net.d,cni/ipam,pod-logs} "$KROOT"
echo "$KROOT" >"$W/kubelet-root"

# --- what the machine must lend: a bridge, a cgroup, a shared mount, 3 sysctls
[ -f "$W/sysctl.before" ] || for k in vm.overcommit_memory kernel.panic kernel.panic_on_oops; do
  echo "$k $(cat "/proc/sys/${k//.//}")"
done >"$W/sysctl.before"       # the kubelet sets them; down.sh puts them back
if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
  ip link add "$BRIDGE" type bridge
  echo "$BRIDGE" >"$W/bridge"
fi
ip link set "$BRIDGE" up
ip addr replace "$NODE_IP/24" dev "$BRIDGE"
ip addr replace "$SVC_IP/32" dev "$BRIDGE"
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then   # cgroup v2 only
  mkdir -p "/sys/fs/cgroup/$CGROUP"
else
  for d in /sys/fs/cgroup/*/; do
    [ "$(stat -f -c %T "$d")" = cgroupfs ] || continue
    mkdir -p "$d$CGROUP"
    if [ -f "$d$CGROUP/cpuset.cpus" ] && [ -z "$(cat "$d$CGROUP/cpuset.cpus")" ]; then
      cat "${d}cpuset.cpus" >"$d$CGROUP/cpuset.cpus"
      cat "${d}cpuset.mems" >"$d$CGROUP/cpuset.mems"
    fi
  done
fi
mountpoint -q "$KROOT" || mount --bind "$KROOT" "$KROOT"
mount --make-rshared "$KROOT"
mkdir -p "$KROOT"/{plugins,plugins_registry}

# --- identities
if [ ! -f "$W/pki/admin.kubeconfig" ]; then
  "$BIN/labtool" pki "$W/pki" "$NODE" "$NODE_IP" "$SVC_IP" "https://$NODE_IP:6443"
fi
install -m 600 "$W/pki/admin.kubeconfig" "$W/kubeconfig"

# --- configuration
cat >"$W/etc/containerd.toml" <<T
version = 3
root = "$W/containerd/root"
state = "$W/containerd/state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "$CRI"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "${KLAB_SNAPSHOTTER:-overlayfs}"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "klab.test/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["$BIN/cni"]
    conf_dir = "$W/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "$BIN/runc"
        Root = "$W/containerd/runc"
        SystemdCgroup = false
T
cat >"$W/cni/net.d/10-klab.conflist" <<T
{"cniVersion": "1.0.0", "name": "klab", "plugins": [{
  "type": "bridge", "bridge": "$BRIDGE", "isGateway": false, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$W/cni/ipam",
    "ranges": [[{"subnet": "$NET.0/24", "rangeStart": "$NET.10", "rangeEnd": "$NET.250", "gateway": "$NODE_IP"}]],
    "routes": [{"dst": "0.0.0.0/0", "gw": "$NODE_IP"}]}}]}
T
printf 'options ndots:1\n' >"$W/etc/resolv.conf"
cat >"$W/etc/kubelet.yaml" <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
enforceNodeAllocatable: [pods]
oomScoreAdj: 0
failSwapOn: false
containerRuntimeEndpoint: unix://$CRI
address: $NODE_IP
healthzBindAddress: $NODE_IP
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $W/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $W/pki/kubelet.crt
tlsPrivateKeyFile: $W/pki/kubelet.key
resolvConf: $W/etc/resolv.conf
podLogsDir: $W/pod-logs
volumePluginDir: $KROOT/volumeplugins
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 2000h
evictionHard: {memory.available: 50Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
nodeStatusUpdateFrequency: 5s
volumeStatsAggPeriod: 10s
maxPods: 100
serializeImagePulls: false
shutdownGracePeriod: 0s
T

# --- processes
export PATH=$BIN:$PATH NO_PROXY=${NO_PROXY:+$NO_PROXY,}$NODE_IP,$SVC_IP,127.0.0.1,localhost
E=http://127.0.0.1:$ETCD_PORT
P=http://127.0.0.1:$((ETCD_PORT + 1))
start etcd "$BIN/etcd" --name klab --data-dir "$W/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls $E --advertise-client-urls $E \
  --listen-peer-urls $P --initial-advertise-peer-urls $P --initial-cluster klab=$P
start containerd "$BIN/containerd" --config "$W/etc/containerd.toml" --log-level warn
start kube-apiserver "$BIN/klab" kube-apiserver --etcd-servers=$E \
  --bind-address="$NODE_IP" --advertise-address="$NODE_IP" --secure-port=6443 \
  --service-cluster-ip-range="$SVC.0/24" --allow-privileged=true \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --client-ca-file="$W/pki/ca.crt" --tls-cert-file="$W/pki/apiserver.crt" --tls-private-key-file="$W/pki/apiserver.key" \
  --kubelet-client-certificate="$W/pki/apiserver-kubelet-client.crt" --kubelet-client-key="$W/pki/apiserver-kubelet-client.key" \
  --kubelet-certificate-authority="$W/pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$W/pki/sa.key" \
  --service-account-signing-key-file="$W/pki/sa.key" ${KLAB_APISERVER_FLAGS:-}
start svc-forward "$BIN/labtool" forward "$SVC_IP:443" "$NODE_IP:6443"
until_ok 60 containerd ctr version || { tail -5 "$W/logs/containerd.log" >&2; exit 1; }
for i in pause busybox; do
  ctr images ls -q | grep -qx "klab.test/$i:1" ||
    ctr images import --snapshotter "${KLAB_SNAPSHOTTER:-overlayfs}" "$BIN/img/$i.tar" >/dev/null
done
until_ok 120 kube-apiserver kubectl get --raw /readyz || { tail -5 "$W/logs/kube-apiserver.log" >&2; exit 1; }
say "apiserver is ready"
start kube-controller-manager "$BIN/klab" kube-controller-manager --kubeconfig="$W/pki/kcm.kubeconfig" \
  --authentication-kubeconfig="$W/pki/kcm.kubeconfig" --authorization-kubeconfig="$W/pki/kcm.kubeconfig" \
  --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true \
  --root-ca-file="$W/pki/ca.crt" --service-account-private-key-file="$W/pki/sa.key" \
  --cluster-signing-cert-file="$W/pki/ca.crt" --cluster-signing-key-file="$W/pki/ca.key" ${KLAB_KCM_FLAGS:-}
start kube-scheduler "$BIN/klab" kube-scheduler --kubeconfig="$W/pki/scheduler.kubeconfig" \
  --authentication-kubeconfig="$W/pki/scheduler.kubeconfig" --authorization-kubeconfig="$W/pki/scheduler.kubeconfig" \
  --bind-address=127.0.0.1 --leader-elect=false
since=; alive kubelet || since=$(date -u +%FT%TZ)   # an older Ready is not this kubelet's
start kubelet "$BIN/klab" kubelet --config="$W/etc/kubelet.yaml" --kubeconfig="$W/pki/node.kubeconfig" \
  --root-dir="$KROOT" --hostname-override="$NODE" --node-ip="$NODE_IP" ${KLAB_KUBELET_FLAGS:-}
ready() {
  local s
  s=$(kubectl get node "$NODE" -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}') &&
    [ "${s% *}" = True ] && [[ ! ${s#* } < $since ]]
}
until_ok 120 "the node" ready || { alive kubelet || echo "the kubelet has ended" >&2; grep -E '^(E|F)' "$W/logs/kubelet.log" | tail -8 >&2; exit 1; }
until_ok 60 "the default service account" kubectl get serviceaccount default
say "node $NODE is Ready"
echo "$W/kubeconfig"
