#!/bin/sh
# Installs the S3 server that the tests start (Versity S3 Gateway, Apache-2.0) and prints the path of its program.
# From the Go module proxy, pinned, and checked against Go's checksum database. About 100 s on two cores, once.
#
#   tests/servers/s3.sh [DIRECTORY]      default: target/test-servers
set -eu

version=v1.8.0
root=$(cd "$(dirname "$0")/../.." && pwd)
directory=${1:-${CARGO_TARGET_DIR:-$root/target}/test-servers}
program=$directory/versitygw-$version

mkdir -p "$directory"
# Tests of several binaries may come here at once: one installs, the others wait for it.
exec 9>"$directory/.lock"
flock 9
if [ ! -x "$program" ]; then
    go=$(command -v go || true)
    [ -n "$go" ] || [ ! -x /usr/local/go/bin/go ] || go=/usr/local/go/bin/go
    if [ -z "$go" ]; then
        echo "the tests' S3 server is built from the Go module proxy and there is no go: install Go 1.21 or later (Debian: golang-go)" >&2
        exit 1
    fi
    scratch=$(mktemp -d -p "$directory")
    trap 'rm -rf "$scratch"' EXIT
    echo "installing the S3 server of the tests ($version) ..." >&2
    # Outside the package, so that no go.mod above interferes. GOTOOLCHAIN=auto fetches the Go that its go.mod asks for.
    (cd "$scratch" && CGO_ENABLED=0 GOTOOLCHAIN=auto GOFLAGS= GOBIN="$scratch" \
        "$go" install -ldflags '-s -w' "github.com/versity/versitygw/cmd/versitygw@$version" >&2)
    mv "$scratch/versitygw" "$program"
fi
echo "$program"
