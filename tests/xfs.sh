#!/usr/bin/env bash
# The cache on XFS, in an image file on a loop device: its own tests with the losses of power, a driver that dies at each failpoint of the
# cache, a live mount that is taken over, one application. With SCALE above 1 the whole of these suites. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=$(mktemp -d /var/tmp/hf-xfs.XXXXXX)
leave() {
    umount "$directory/disk" 2>/dev/null || umount -l "$directory/disk" 2>/dev/null || true
    rm -rf "$directory"
}
trap leave EXIT
truncate -s $((${SCALE:-1} > 1 ? 100 : 8))G "$directory/image"
mkfs.xfs -q "$directory/image"
mkdir "$directory/disk"
mount -o loop,noatime "$directory/image" "$directory/disk"
# Other users' processes pass through these.
chmod 755 "$directory" "$directory/disk"

# Where the tests make their directories: HOLDFAST_TEST_LAB those that mount, TMPDIR those in the library.
export HOLDFAST_TEST_LAB="$directory/disk" TMPDIR="$directory/disk"
suite() { cargo test --quiet "$@"; }
suite --lib cache:: --
if [ "${SCALE:-1}" -gt 1 ]; then
    for name in crash fuse semantics bad_days apps; do suite --test $name -- --test-threads=1; done
else
    suite --test crash cache_ -- --test-threads=1
    suite --test fuse takeover -- --test-threads=1
    suite --test apps sqlite_with_a_wal -- --test-threads=1
fi
