#!/usr/bin/env bash
# Upstream's csi-sanity against the driver: with real FUSE mounts on a store in a directory, and once more, by a user without privileges,
# with mounts that are only pretended. Each test that is skipped must have its reason in csi-sanity/skips.txt, and each reason its skip.
# Needs root and /dev/fuse for the first; `csi-sanity/run.sh pretend` is the second alone. About 20 s.
#
# Flags of csi-sanity that are left out: --csi.{create,remove}{mount,staging}pathcmd and --csi.checkpathcmd (driver and tests see one file
# system), --csi.testvolumeaccesstype=block (there are no block volumes), --csi.testnodevolumeattachlimit (a node has no limit),
# --csi.testsnapshotparameters (a snapshot class has none), --csi.testvolumemutableparameters (there is no VolumeAttributesClass yet).
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD/csi-sanity
holdfast=${HOLDFAST:-$PWD/target/debug/holdfast}
sanity=$PWD/target/test-tools/bin/csi-sanity-v5.5.0
[ -x "$sanity" ] || { echo "csi-sanity is missing: run tests/setup.sh" >&2; exit 1; }

lab=$(mktemp -d /var/tmp/hf-csi-XXXXXX)
driver=
finish() {
    [ -z "$driver" ] || { kill "$driver" 2>/dev/null && wait "$driver" || true; }
    # A failed run may leave mounts: a driver's own, and where pods would be.
    awk -v lab="$lab/" 'index($5, lab) == 1 {print $5}' /proc/self/mountinfo | sort -r | xargs -r -n1 umount -l
    [ -n "${HOLDFAST_KEEP:-}" ] && echo "kept: $lab" || rm -rf "$lab"
}
trap finish EXIT

# mode, then words before the driver's command line, if it is to be another user's
round() {
    local mode=$1 home=$lab/$1 flags=() as=("${@:2}")
    mkdir -p "$home/stores/main" "$home/home"
    export HOME="$home/home" HOLDFAST_RUN_DIR="$home/run" HOLDFAST_CACHE="$home/cache" HOLDFAST_LOG_LEVEL=info
    "$holdfast" --store "file://$home/store" store init --recovery-file "$home/stores/main/key" >/dev/null 2>&1
    echo "file://$home/store" >"$home/stores/main/url"
    # Removals begin as well, on the way.
    echo 'onDelete: purge' >"$home/parameters.yaml"
    [ "$mode" != pretend ] || flags+=(--pretend)
    [ ${#as[@]} = 0 ] || { chmod 755 "$lab" && chown -R 65534:65534 "$home"; }
    "${as[@]}" "$holdfast" csi --endpoint "unix://$home/csi.sock" --cluster sanity --stores "$home/stores" --state "$home/state" \
        --controller --node --node-id node-a "${flags[@]}" >"$home/log" 2>&1 &
    driver=$!
    # It waits for the socket by itself.
    "${as[@]}" "$sanity" --csi.endpoint "unix://$home/csi.sock" --csi.mountdir "$home/target" --csi.stagingdir "$home/staging" \
        --csi.testvolumesize $((1 << 30)) --csi.testvolumeexpandsize $((2 << 30)) --csi.testvolumeparameters "$home/parameters.yaml" \
        --csi.secrets "$here/secrets.yaml" --ginkgo.junit-report="$home/report.xml" --ginkgo.no-color >"$home/said" 2>&1 ||
        { cat "$home/said" "$home/log" >&2; exit 1; }
    kill "$driver" && wait "$driver"
    driver=
    ! grep -rqs sanity-secret-value "$home/log" "$home/state" || { echo "a secret of a request is in the driver's log or state" >&2; exit 1; }
    ! grep -qs " $home/" /proc/self/mountinfo || { echo "mounts are left" >&2; exit 1; }
    python3 "$here/skips.py" "$mode" "$home/report.xml" "$here/skips.txt"
}

[ "${1:-}" = pretend ] || round real
if [ "$(id -u)" = 0 ]; then
    round pretend setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all --no-new-privs
else
    round pretend
fi
