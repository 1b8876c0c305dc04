#!/usr/bin/env bash
# A volume outlives its machine: `make demo`. Everything happens below one temporary directory, as two machines that share only
# the store and a recovery key. DEMO_FILES= sets how many small files there are. Needs root (or a user that may mount FUSE).
set -euo pipefail

holdfast=${HOLDFAST:-holdfast}
files=${DEMO_FILES:-2000}
lab=$(mktemp -d "${TMPDIR:-/var/tmp}/holdfast-demo.XXXXXX")
began=$EPOCHREALTIME

command -v "$holdfast" >/dev/null || { echo "demo: no '$holdfast' on the PATH; run 'make demo'" >&2; exit 1; }
command -v sqlite3 >/dev/null || { echo "demo: needs sqlite3 (Debian: apt-get install sqlite3)" >&2; exit 1; }

since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f s", b - a }'; }
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '   $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/     /'; return "${PIPESTATUS[0]}"; }

# A machine is its home: configuration, cache and state all lie below it.
machine() {
    export HOME=$lab/$1 XDG_DATA_HOME=$lab/$1/data XDG_CACHE_HOME=$lab/$1/cache XDG_CONFIG_HOME=$lab/$1/config
    export XDG_STATE_HOME=$lab/$1/state HOLDFAST_RUN_DIR=$lab/$1/run
    mkdir -p "$HOME/photos"
}

cleanup() {
    set +e
    for name in first second; do
        mountpoint -q "$lab/$name/photos" && { "$holdfast" unmount "$lab/$name/photos" >/dev/null 2>&1 || umount -l "$lab/$name/photos"; }
    done
    rm -rf "$lab"
}
trap "${DEMO_KEEP:+true }cleanup" EXIT

# Everything that an application can see: content, kind, mode, owner, size, time of change, target of links.
picture() {
    (cd "$1" && find . -mindepth 1 -printf '%P %y %m %U %G %s %T@ %l\n' | awk '$2 != "d" || $6 = "-"' | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

say "1. A machine with a new store (the embedded default: a directory of files) and a recovery key"
machine first
show "$holdfast" store init --recovery-file "$lab/recovery.key"
marker=$(find "$lab/first" -name holdfast-store -type f | head -n 1)
[ -n "$marker" ] || { echo "demo: store init left no marker below $lab/first" >&2; exit 1; }
store=$(dirname "$marker")

say "2. A volume, mounted; an application writes a database and $files files"
start=$EPOCHREALTIME
show "$holdfast" mount photos "$lab/first/photos"
echo "     usable after $(since "$start")"
start=$EPOCHREALTIME
sqlite3 "$lab/first/photos/album.db" >/dev/null <<SQL
PRAGMA journal_mode = wal;
CREATE TABLE picture (id INTEGER PRIMARY KEY, title TEXT, taken TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO picture SELECT i, 'picture ' || i, datetime('2026-01-01', i || ' minutes') FROM n;
SQL
for ((i = 0; i < files; i++)); do
    ((i % 100)) || mkdir -p "$lab/first/photos/$((i / 100))"
    echo "picture $i" >"$lab/first/photos/$((i / 100))/$i.txt"
done
ln "$lab/first/photos/0/0.txt" "$lab/first/photos/cover.txt"
ln -s 0/1.txt "$lab/first/photos/latest"
chmod 640 "$lab/first/photos/cover.txt"
echo "     written in $(since "$start")"
start=$EPOCHREALTIME
show "$holdfast" flush "$lab/first/photos"
echo "     all of it in the store $(since "$start") later"
picture "$lab/first/photos" >"$lab/before"
rows=$(sqlite3 "$lab/first/photos/album.db" 'SELECT count(*) FROM picture')
show "$holdfast" status photos

say "3. The machine is lost: no unmount, no goodbye; only the store and the recovery key are left"
"$holdfast" status photos --json >"$lab/status.json" 2>/dev/null || true
# Only processes of this mount: their command line names its directory; and the keeper, which would start them again.
keeper=$(sed -n 's/.*"keeper": *\([0-9]*\).*/\1/p' "$lab/status.json")
[ -z "$keeper" ] || kill -STOP "$keeper"
for pid in $(ps -eo pid=,args= | awk -v dir="$lab/first/photos" 'index($0, dir) && !/awk/ { print $1 }'); do kill -9 "$pid" 2>/dev/null || true; done
[ -z "$keeper" ] || kill -9 "$keeper"
umount -l "$lab/first/photos" 2>/dev/null || fusermount3 -uz "$lab/first/photos" 2>/dev/null || true
mv "$store" "$lab/store"
rm -rf "$lab/first"
ls -1 "$lab" | grep -v -e before -e status.json | sed 's/^/     /'

say "4. Another machine asks for the volume by its name"
machine second
start=$EPOCHREALTIME
# The first machine did not say goodbye: that it is gone for good is for a person to say.
show "$holdfast" mount photos "$lab/second/photos" --store "file://$lab/store" --recovery-key "$lab/recovery.key" --take-over
ls "$lab/second/photos" >/dev/null
echo "     usable after $(since "$start")"
start=$EPOCHREALTIME
picture "$lab/second/photos" >"$lab/after"
echo "     every byte read back in $(since "$start")"

if ! cmp -s "$lab/before" "$lab/after"; then
    echo "demo: the volume is NOT what it was:" >&2
    diff "$lab/before" "$lab/after" | head -n 20 >&2
    exit 1
fi
again=$(sqlite3 "$lab/second/photos/album.db" 'PRAGMA integrity_check; SELECT count(*) FROM picture')
[ "$again" = "ok
$rows" ] || { echo "demo: the database came back as: $again" >&2; exit 1; }
echo "     $(grep -c . "$lab/before") lines of names, modes, owners, times and checksums are the same"
echo "     sqlite3: integrity ok, $rows rows"

say "5. Its history"
show "$holdfast" history photos --store "file://$lab/store" --recovery-key "$lab/recovery.key"
show "$holdfast" unmount "$lab/second/photos"
say "The volume outlived its machine. $(since "$began") in all."
