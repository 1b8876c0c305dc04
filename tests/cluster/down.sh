#!/usr/bin/env bash
# down.sh WORKDIR [--purge]: ends what up.sh started for WORKDIR,
# unmounts what lies under it, gives back the bridge, the cgroup and the sysctls,
# and removes the state. The logs stay unless --purge is given.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[ -d "${1:-}" ] || { echo "down.sh: no directory ${1:-}" >&2; exit 0; }
workdir "$1"
exec 9>"$W/.lock"; flock 9
rc=0
for f in "$W"/run/*.pid; do   # first all that stands on the cluster
  n=$(basename "$f" .pid)
  case $n in '*'|etcd|containerd|kube-apiserver|kube-controller-manager|kube-scheduler) ;; *) stop "$n" 10 ;; esac
done
c() { ctr "$@" 2>/dev/null; }
if alive containerd; then
  for t in $(c tasks ls -q); do c tasks kill -s KILL -a "$t"; done
  for i in 1 2 3 4 5; do
    for t in $(c tasks ls -q); do c tasks rm -f "$t" >/dev/null; done
    [ -z "$(c tasks ls -q)" ] && break; sleep 0.5
  done
  for t in $(c containers ls -q); do c containers rm "$t"; done
fi
stop kube-scheduler; stop kube-controller-manager; stop kube-apiserver 20; stop containerd; stop etcd
# A shim outlives containerd; ours are known by the socket on their command line.
for p in /proc/[0-9]*; do
  tr '\0' '\n' 2>/dev/null <"$p/cmdline" | grep -qxF -- "$CRI" || continue
  case $(readlink "$p/exe") in */containerd-shim-runc-v2*) kill -KILL "${p#/proc/}" ;; esac
done
mounts() { awk -v w="$W/" -v k="$KROOT" '{p=$5; gsub(/\\040/," ",p); if (index(p,w)==1 || p==k || index(p,k"/")==1) print p}' /proc/self/mountinfo | tac; }
for i in 1 2 3; do
  mounts | while IFS= read -r m; do umount "$m" 2>/dev/null || { [ $i = 3 ] && umount -l "$m"; }; done
  [ -z "$(mounts)" ] && break; sleep 0.5
done
for d in "/sys/fs/cgroup/$CGROUP" /sys/fs/cgroup/*/"$CGROUP"; do
  [ -d "$d" ] || continue
  for i in 1 2 3; do find "$d" -depth -type d -exec rmdir {} + 2>/dev/null; [ -d "$d" ] || break; sleep 0.5; done
done
if [ -f "$W/bridge" ]; then ip link del "$(cat "$W/bridge")" 2>/dev/null; fi
[ -f "$W/sysctl.before" ] && while read -r k v; do echo "$v" >"/proc/sys/${k//.//}"; done <"$W/sysctl.before"
find /var/log/containers -maxdepth 1 -lname "$W/*" -delete 2>/dev/null
if [ -n "$(mounts)" ]; then
  echo "still mounted, so the state stays:" >&2; mounts >&2; rc=1
else
  [ "$KROOT" = "$W/kubelet" ] || rm -rf --one-file-system "${KROOT:?}"/*
  [ -f "$W/made" ] && while read -r d; do
    case $d in
    /run/containerd) rmdir $d/s $d ;;
    /var/lib/cni) rm -f $d/results/klab-* $d/results/cni-loopback-*; rmdir $d/results $d ;;
    /var/lib/kubelet) rm -f $d/device-plugins/kubelet.sock; rmdir $d/device-plugins $d ;;
    /var/log/containers) rmdir $d ;;
    esac 2>/dev/null
  done <"$W/made"
  if [ "${2:-}" = --purge ]; then
    rm -rf --one-file-system "$W"
  else
    for x in run etc etcd containerd cni pod-logs kubelet pki kubeconfig kubelet-root bridge sysctl.before made ; do rm -rf --one-file-system "${W:?}/$x"; done
  fi
fi
exit $rc
