#!/usr/bin/env bash
# Installs what the tests run: Debian packages when root, the POSIX suites from crates.io into target/test-tools.
# Without root it says what is missing and ends with 1. `tests/setup.sh --peers` adds what only `make bench` compares with.
set -euo pipefail
cd "$(dirname "$0")/.."

# package, then a file that shows that it is there
needed=(
    "git /usr/bin/git" "fuse3 /usr/bin/fusermount3" "python3 /usr/bin/python3"
    "python3-cryptography /usr/lib/python3/dist-packages/cryptography" "python3-zstandard /usr/lib/python3/dist-packages/zstandard"
    "python3-xxhash /usr/lib/python3/dist-packages/xxhash" "python3-plyvel /usr/lib/python3/dist-packages/plyvel" "sqlite3 /usr/bin/sqlite3" "postgresql /usr/lib/postgresql"
    "postgresql-contrib /usr/lib/postgresql" "attr /usr/bin/setfattr" "acl /usr/bin/setfacl" "libacl1-dev /usr/include/sys/acl.h"
    "rsync /usr/bin/rsync" "restic /usr/bin/restic" "xfsprogs /usr/sbin/mkfs.xfs" "e2fsprogs /usr/sbin/mkfs.ext4" "tar /usr/bin/tar" "procps /usr/bin/ps" "fio /usr/bin/fio" "golang-go /usr/local/go/bin/go"
)
[ "${1:-}" = --peers ] && needed+=("rclone /usr/bin/rclone" "s3fs /usr/bin/s3fs" "bindfs /usr/bin/bindfs")

missing=()
mkdir -p target
for entry in "${needed[@]}"; do
    read -r package witness <<<"$entry"
    [ "$package" = golang-go ] && command -v go >/dev/null && continue
    [ -e "$witness" ] || [ -e "${witness/\/usr/}" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "setup: these Debian packages are missing, and installing them needs root: ${missing[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null
    # Installed without starting anything: the tests start their own servers, in their own directories.
    policy=/usr/sbin/policy-rc.d
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && trap "rm -f $policy" EXIT; }
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >target/setup.log 2>&1 || { cat target/setup.log >&2; exit 1; }
    rm -f target/setup.log
fi

if [ ! -e /dev/fuse ]; then
    modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || { echo "setup: /dev/fuse is not there (a kernel with FUSE is needed; in a container: --device /dev/fuse --cap-add SYS_ADMIN)" >&2; exit 1; }
fi

tool() { # name version
    [ -x "target/test-tools/bin/$1" ] && "target/test-tools/bin/$1" --version 2>/dev/null | grep -qF "$2" && return
    echo "setup: building $1 $2"
    cargo install --quiet --locked --root target/test-tools --target-dir target/test-tools/build "$1@$2" </dev/null
}
# name version module: from the Go module proxy, pinned, and checked against Go's checksum database.
go_tool() {
    local program=target/test-tools/bin/$1-$2 go scratch
    [ -x "$program" ] && return
    echo "setup: building $1 $2"
    go=$(command -v go || echo /usr/local/go/bin/go)
    mkdir -p target/test-tools/bin
    scratch=$(mktemp -d -p target/test-tools)
    # Outside the package, so that no go.mod above interferes. GOTOOLCHAIN=auto fetches the Go that its go.mod asks for.
    (cd "$scratch" && CGO_ENABLED=0 GOTOOLCHAIN=auto GOFLAGS= GOBIN="$PWD" "$go" install -ldflags '-s -w' "$3@$2")
    mv "$scratch/$1" "$program"
    rmdir "$scratch"
}
go_tool csi-sanity v5.5.0 github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
tool pjdfstest 0.2.2
tool fsx 0.3.2
rm -rf target/test-tools/build

# The S3 server of the tests, from the Go module proxy.
if [ -x tests/servers/s3.sh ]; then tests/servers/s3.sh >/dev/null; fi
