#!/usr/bin/env bash
# Runs the parts of the tests in order, prints the time of each, and stops at the first that fails, with its name.
# `tests/run.sh` runs all; `tests/run.sh store fuse` only those. SCALE= is handed on to every part (1 here, 20 in `make soak`).
set -euo pipefail
cd "$(dirname "$0")/.."
export SCALE="${SCALE:-1}" RUST_BACKTRACE="${RUST_BACKTRACE:-1}"

has() { [ -e "tests/$1.rs" ]; }
# Integration tests that are there, one process each; what mounts runs one test at a time.
suite() {
    local arguments=() name
    for name in "$@"; do has "$name" && arguments+=(--test "$name"); done
    [ ${#arguments[@]} -gt 0 ] || return 0
    cargo test --quiet "${arguments[@]}" -- ${THREADS:+--test-threads=$THREADS}
}

part_setup() { tests/setup.sh; }
part_build() { cargo build --quiet --all-targets; }
part_lint() { cargo fmt --check && cargo clippy --quiet --all-targets -- -D warnings; }
part_tidy() { suite tidy; }
part_unit() { cargo test --quiet --lib --bins; }
part_model() { suite format model; }
part_store() { suite store; }
part_sim() { suite sim; }
part_fuse() { THREADS=1 suite fuse keeper semantics; }
part_posix() { THREADS=1 suite posix tools; }
part_crash() { THREADS=1 suite crash bad_days branches tiers; }
part_power() { THREADS=1 suite power; }
part_xfs() { tests/xfs.sh; }
part_cli() { THREADS=1 suite cli restore history; }
# Upstream's tests of the Kubernetes driver, with FUSE and without privileges, and our own.
part_csi() { csi-sanity/run.sh && THREADS=1 suite csi; }
# The image of this build, used as a container would; the manifests, where there is a Helm that says what they should be.
part_deploy() {
    deploy/test.py
    local helm
    helm=$(command -v helm || echo target/test-cluster/helm)
    [ ! -x "$helm" ] || HELM=$(realpath "$helm") deploy/manifests.sh --check
}
part_apps() { THREADS=1 suite apps; }
# Two commands a person would give, and every workload of the benchmarks once, so that neither rots.
part_demo() { HOLDFAST="$PWD/target/debug/holdfast" DEMO_FILES=300 tests/demo.sh; }
part_bench() { cargo bench --quiet --profile dev --bench speed -- --smoke --systems ext4,bare,holdfast-file,holdfast-s3; }

all=(setup build lint tidy unit model store sim fuse posix crash power xfs cli csi deploy apps demo bench)
# A test file that no part names would never run.
for file in tests/*.rs; do
    name=$(basename "$file" .rs)
    grep -qE "suite .*\b$name\b" "$0" || { echo "tests/run.sh: no part runs tests/$name.rs" >&2; exit 1; }
done

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${all[@]}")
began=$SECONDS
for part in "${parts[@]}"; do
    echo "== $part"
    start=$SECONDS
    status=0
    # A subshell of its own, so that -e holds inside (it does not in the condition of an if).
    set +e
    (set -e; "part_$part")
    status=$?
    set -e
    if [ $status != 0 ]; then
        echo "== $part FAILED after $((SECONDS - start)) s (status $status); the parts after it did not run"
        exit 1
    fi
    echo "== $part ok, $((SECONDS - start)) s"
done
echo "== all ok, $((SECONDS - began)) s"
