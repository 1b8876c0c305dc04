#!/bin/sh
# Installs Azurite, Microsoft's emulator of Azure Blob Storage (MIT), from the npm registry and prints the path of its program, to be
# run by node. About 20 s, 190 MB, once.
#
#   tests/servers/azure.sh [DIRECTORY]      default: target/test-servers
set -eu

version=3.35.0
root=$(cd "$(dirname "$0")/../.." && pwd)
directory=${1:-${CARGO_TARGET_DIR:-$root/target}/test-servers}
place=$directory/azurite-$version

mkdir -p "$directory"
exec 9>"$directory/.lock-azure"
flock 9
if [ ! -d "$place" ]; then
    if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
        echo "the tests' Azure emulator comes from the npm registry: install node and npm (Debian: nodejs npm)" >&2
        exit 1
    fi
    scratch=$(mktemp -d -p "$directory")
    trap 'rm -rf "$scratch"' EXIT
    echo "installing the Azure emulator of the tests ($version) ..." >&2
    npm install --prefix "$scratch/azurite" --no-audit --no-fund --no-update-notifier --ignore-scripts "azurite@$version" >&2
    mv "$scratch/azurite" "$place"
fi
echo "$place/node_modules/azurite/dist/src/blob/main.js"
