#!/usr/bin/python3
"""LevelDB itself (Debian's library, no re-implementation: those found on crates.io never fsync), with the words of tests/apps/worker.rs.

A log that is appended to and never closed (`000003.log`), tables, and a manifest replaced by rename.
"""
import hashlib
import os
import sys

import plyvel


def value(n):
    return hashlib.sha256(b"%d" % n).digest() * (1 + n * 17 % 90)


def found(directory):
    """The last of the keys 1, 2, 3, ...; each must hold what was put, and none may be missing before it."""
    if not os.path.exists(os.path.join(directory, "leveldb", "CURRENT")):
        return 0
    last = 0
    database = plyvel.DB(os.path.join(directory, "leveldb"), paranoid_checks=True)
    for key, stored in database.iterator(verify_checksums=True):
        last += 1
        if key != b"%012d" % last or stored != value(last):
            sys.exit(f"key {key!r} in place {last} is not what was put")
    database.close()
    return last


def run(directory):
    last = found(directory)
    database = plyvel.DB(os.path.join(directory, "leveldb"), create_if_missing=True, write_buffer_size=256 << 10)
    print("ready", last, flush=True)
    while True:
        last += 1
        database.put(b"%012d" % last, value(last), sync=True)
        print("kept", last, flush=True)


verb, directory = sys.argv[1:]
if verb == "run":
    run(directory)
print("found", found(directory))
