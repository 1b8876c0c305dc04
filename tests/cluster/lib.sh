# Shared by the scripts beside it; sourced, not run.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BIN=${KLAB_BIN:-$here/../../target/test-cluster}
BRIDGE=${KLAB_BRIDGE:-klab0}
NET=${KLAB_NET:-10.88.77}            # the node is .1, pods .10 and up
SVC=${KLAB_SVC:-10.96.0}             # services /24, the apiserver at .1
NODE=${KLAB_NODE:-klab}
ETCD_PORT=${KLAB_ETCD_PORT:-22379}   # and the next one for its peer port
CGROUP=klab
NODE_IP=$NET.1
SVC_IP=$SVC.1

workdir() {  # WORKDIR -> W and all that hangs from it
  [ -n "${1:-}" ] || { echo "usage: $0 WORKDIR" >&2; exit 2; }
  [ "$(id -u)" = 0 ] || { echo "$0: must run as root" >&2; exit 2; }
  mkdir -p "$1"
  W=$(cd "$1" && pwd)
  [ ${#W} -le 50 ] || { echo "$0: $W is too long for the unix sockets below it (50 characters at most)" >&2; exit 2; }
  [ "$W" != / ] || exit 2
  KROOT=${KLAB_KUBELET_ROOT:-$W/kubelet}
  [ -f "$W/kubelet-root" ] && KROOT=$(cat "$W/kubelet-root")
  CRI=$W/run/containerd.sock
  export KUBECONFIG=$W/kubeconfig
}

kubectl() { "$BIN/klab" kubectl "$@"; }
helm() { "$BIN/helm" "$@"; }
ctr() { CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1 "$BIN/ctr" -a "$CRI" -n k8s.io "$@"; }

# A process is known by its pid and its start time, so a pid that the kernel
# has given to another process is never taken for ours.
born() { local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1; s=${s##*) }; set -- $s; [ "$1" != Z ] && echo "${20}"; }

alive() {  # NAME
  local pid when
  read -r pid when 2>/dev/null <"$W/run/$1.pid" || return 1
  [ -n "$when" ] && [ "$(born "$pid")" = "$when" ]
}

start() {  # NAME COMMAND...
  local name=$1; shift
  alive "$name" && return 0
  mkdir -p "$W/run" "$W/logs"
  setsid nohup "$@" </dev/null >>"$W/logs/$name.log" 2>&1 9>&- &
  local pid=$! when
  when=$(born $pid) || { echo "$name did not start; see $W/logs/$name.log" >&2; return 1; }
  echo "$pid $when" >"$W/run/$name.pid"
}

stop() {  # NAME [SECONDS]
  local pid when i
  if alive "$1"; then
    read -r pid when <"$W/run/$1.pid"
    kill -TERM "$pid" 2>/dev/null
    for ((i = 0; i < ${2:-10} * 10; i++)); do alive "$1" || break; sleep 0.1; done
    alive "$1" && kill -KILL "$pid" 2>/dev/null
    for ((i = 0; i < 50; i++)); do alive "$1" || break; sleep 0.1; done
  fi
  rm -f "$W/run/$1.pid"
}

until_ok() {  # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "gave up waiting for $what" >&2; return 1; }
    sleep 0.2
  done
}
