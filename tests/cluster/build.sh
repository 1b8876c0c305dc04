#!/usr/bin/env bash
# Builds, with ordinary package clients only (go, apt), what is missing from the
# binaries' directory: target/test-cluster, or $KLAB_BIN. Six minutes on two cores, once.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
mkdir -p "$BIN/cni" "$BIN/img"
BIN=$(cd "$BIN" && pwd)
cd "$here/src"
export GOFLAGS=-buildvcs=false
K8S=$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' go.mod)

build() {  # FILE PACKAGE [LDFLAGS [TAGS]]
  [ -x "$BIN/$1" ] && [ -z "${KLAB_REBUILD:-}" ] && return 0
  local s=$SECONDS
  nice go build -tags "${4:-}" -ldflags "-s -w ${3:-}" -o "$BIN/$1.new" "$2"
  mv "$BIN/$1.new" "$BIN/$1"
  echo "built $1 in $((SECONDS - s)) s" >&2
}
ver() { sed -n "s|^\t$1 \(v[^ ]*\).*|\1|p" go.mod; }

# The helpers that change most are the cheapest.
export CGO_ENABLED=0
build labtool ./labtool
build pause ./pause
v=k8s.io/component-base/version
build klab ./klab "-X $v.gitVersion=$K8S -X $v.gitMajor=1 -X $v.gitMinor=$(echo "$K8S" | cut -d. -f2)"
build etcd go.etcd.io/etcd/server/v3
c=github.com/containerd/containerd/v2
build containerd $c/cmd/containerd "-X $c/version.Version=$(ver $c)" "no_btrfs no_devmapper no_zfs"
build containerd-shim-runc-v2 $c/cmd/containerd-shim-runc-v2 "-X $c/version.Version=$(ver $c)"
build ctr $c/cmd/ctr
build cni/bridge github.com/containernetworking/plugins/plugins/main/bridge
build cni/loopback github.com/containernetworking/plugins/plugins/main/loopback
build cni/host-local github.com/containernetworking/plugins/plugins/ipam/host-local
s=github.com/kubernetes-csi
build csi-provisioner $s/external-provisioner/v6/cmd/csi-provisioner "-X main.version=$(ver $s/external-provisioner/v6)"
build csi-resizer $s/external-resizer/v2/cmd/csi-resizer "-X main.version=$(ver $s/external-resizer/v2)"

# What installs the chart: of a module of its own, outside this one.
HELM=v3.22.0
if [ ! -x "$BIN/helm" ]; then
  s=$SECONDS
  u=$(mktemp -d)
  (cd "$u" && GOBIN=$u nice go install -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$HELM" helm.sh/helm/v3/cmd/helm@$HELM) >&2
  mv "$u/helm" "$BIN/helm"
  rm -rf "$u"
  echo "built helm in $((SECONDS - s)) s" >&2
fi

[ -e "$BIN/kubectl" ] || ln -s klab "$BIN/kubectl"
# runc and a static busybox come out of Debian's packages, unpacked, not installed.
if [ ! -x "$BIN/runc" ] || [ ! -x "$BIN/busybox" ]; then
  u=$(mktemp -d)
  (cd "$u" && { apt-get -q -o APT::Sandbox::User=root download runc busybox-static || { apt-get -q update && apt-get -q -o APT::Sandbox::User=root download runc busybox-static; }; } \
    && for f in *.deb; do dpkg-deb -x "$f" x; done) >&2
  install -m 755 "$u/x/usr/sbin/runc" "$BIN/runc"
  install -m 755 "$u/x/bin/busybox" "$BIN/busybox"
  rm -rf "$u"
  "$BIN/runc" --version >/dev/null || { echo "runc does not run (libseccomp2 missing?)" >&2; exit 1; }
fi

# Images: one layer each, made here; nothing is ever pulled.
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
root() {  # DIR: a root file system with busybox
  local x
  mkdir -p "$1"/{bin,etc,tmp,root,dev,proc,sys,var,usr,mnt}
  chmod 1777 "$1/tmp"
  cp "$BIN/busybox" "$1/bin/busybox"
  for x in $("$BIN/busybox" --list); do [ "$x" = busybox ] || ln -s busybox "$1/bin/$x"; done
  ln -s ../bin "$1/usr/bin"
  ln -s bin "$1/sbin"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
}
image() { "$BIN/labtool" mkimage -t "$1" -dir "$2" -o "$3" "${@:4}"; }
if [ ! -f "$BIN/img/pause.tar" ]; then
  mkdir "$t/pause"
  cp "$BIN/pause" "$t/pause/"
  image klab.test/pause:1 "$t/pause" "$BIN/img/pause.tar" -entrypoint /pause
fi
[ -f "$BIN/img/busybox.tar" ] || { root "$t/busybox"; image klab.test/busybox:1 "$t/busybox" "$BIN/img/busybox.tar" -cmd /bin/sh; }
