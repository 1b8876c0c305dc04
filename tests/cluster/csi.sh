#!/usr/bin/env bash
# csi.sh WORKDIR start DRIVER_NAME SOCKET   the real CSI sidecars (provisioner,
#                                           resizer) and the kubelet registration
#                                           for a driver whose socket is already
#                                           served (host processes)
# csi.sh WORKDIR stop DRIVER_NAME
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
workdir "${1:-}"
d=$3
case $2 in
start)
  s=$4
  export NODE_NAME=$NODE
  common=(--kubeconfig="$W/kubeconfig" --csi-address="$s" --v="${KLAB_CSI_V:-4}" --leader-election=false)
  start "$d.register" "$BIN/labtool" csi-register -csi "$s" -registry "$KROOT/plugins_registry"
  start "$d.provisioner" "$BIN/csi-provisioner" "${common[@]}" --extra-create-metadata
  start "$d.resizer" "$BIN/csi-resizer" "${common[@]}" --handle-volume-inuse-error=false
  registered() { kubectl get csinode "$NODE" -o 'jsonpath={.spec.drivers[*].name}' | tr ' ' '\n' | grep -qxF "$d"; }
  until_ok 60 "the kubelet to take $d" registered
  ;;
stop)
  for x in resizer provisioner register; do stop "$d.$x" 5; done
  ;;
*) echo "usage: $0 WORKDIR start DRIVER SOCKET | stop DRIVER" >&2; exit 2 ;;
esac
