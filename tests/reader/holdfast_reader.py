#!/usr/bin/python3
"""Gets every file of every commit out of a Holdfast store, without Holdfast: from docs/format.md alone. A bucket is first copied to a
directory. Needs Debian's python3-cryptography, python3-zstandard, python3-xxhash. Commands: commits VOLUME, tree VOLUME [--at SEQ] (JSON
lines: records; paths), export VOLUME DIR [--at SEQ | --branch N]. In JSON the backslash and bytes outside printable ASCII are \\xNN; xattr
values are hex, times nanoseconds."""
import argparse, base64, collections, contextlib, functools, hashlib, itertools, json, os, re, struct, sys, types, uuid
import xxhash, zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# The messages of proto/volume.proto, as far as a reader needs them: name:number, * where repeated, then the form: u unsigned,
# i signed, s zigzag, f fixed64, b bytes, t text, m a message left as it is, or a message's name.
SCHEMA = {
    "Marker": "store_id:1b level:2u features:3*t cipher:4u", "KeyRing": "number:1u age_file:2b", "Block": "block:1u record_hashes:2*b",
    "NameRecord": "number:1u incarnation:2b", "Volume": "incarnation:1b identity:2t created:3i data_key:4b origin:5Origin",
    "Record": "seq:1u parent_hash:2b epoch:3u time:6i open:10Open commit:11Commit close:12m fence:13m", "Open": "checkpoint:4u",
    "Control": "retire:12Retire", "Retire": "seqs:1*u objects:2*t",
    "Commit": "cut_time:1i full:2u delta:4Delta delta_frames:5*FrameRef inline_frames:6*b checkpoint:9u", "Name": "dir:1u name:2b ino:3u",
    "Delta": "objects:1*ObjectRef removed_names:2*Name removed_inodes:3*u inodes:4*Inode names:5*Name extents:6*Change",
    "Inode": "ino:1u mode:2u uid:3u gid:4u rdev:5u size:6u atime:7s mtime:8s ctime:9s target:10b xattrs:11*Xattr",
    "Xattr": "name:1b value:2b", "Change": "ino:1u cleared:2*Range extents:3*Extent", "Range": "offset:1u length:2u",
    "Extent": "offset:1u length:2u object:3u frame:4u stored_offset:5u stored_length:6u plain_length:7u skip:8u checksum:9f inline_seq:10u",
    "FrameRef": "object:1ObjectRef frame:2u stored_offset:3u stored_length:4u plain_length:5u checksum:6f",
    "Origin": "incarnation:1b data_key:5b", "ObjectRef": "name:1t salt:2b epoch:3u frames:4u", "PartRef": "name:1t hash:5b", "Checkpoint": "seq:1u commit_hash:2b parts:4*PartRef",
    "Part": "objects:1*ObjectRef inodes:2*Inode names:3*Name extents:4*Change", "Branch": "base_seq:2u base_hash:3b state:4Commit"}
FIELDS = {kind: {int(number): (name, many, form) for name, number, many, form in re.findall(r"(\w+):(\d+)(\*?)(\w+)", fields)}
          for kind, fields in SCHEMA.items()}
KINDS = {"KeyRing": 1, "NameRecord": 2, "Volume": 3, "Record": 4, "Pack": 5, "Checkpoint": 6, "Part": 7, "Control": 8, "Block": 9, "Branch": 10}
TYPES = {0o10: "file", 0o4: "dir", 0o12: "symlink", 0o1: "fifo", 0o14: "socket", 0o2: "char", 0o6: "block"}  # st_mode >> 12
# Where a frame lies (an object's name, or the number of the commit that holds it), what opens it, and what it must be.
Frame = collections.namedtuple("Frame", "place epoch salt count number offset stored plain checksum")
def need(holds, what):
    return holds or sys.exit(f"holdfast_reader: {what}")
def varint(data, at):
    value = shift = 0
    while True:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
def convert(form, value):
    if form in "is":
        return value - (value >> 63 << 64) if form == "i" else (value >> 1) ^ -(value & 1)
    return value.decode() if form == "t" else decode(form, value) if form in FIELDS else value
def decode(kind, data):  # a message as a namespace; fields that are not known are skipped, absent messages are None
    values, at = {name: [] if many else {"b": b"", "t": ""}.get(form, 0 if form in "uisf" else None) for name, many, form in FIELDS[kind].values()}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            length, at = varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = data[at:at + length], at + length
        name, many, form = FIELDS[kind].get(key >> 3, (None, "", ""))
        if many and form == "u" and key & 7 == 2:  # packed
            inner = 0
            while inner < len(value):
                number, inner = varint(value, inner)
                values[name].append(number)
        elif name:
            value = convert(form, int.from_bytes(value, "little") if form == "f" else value)
            values[name].append(value) if many else values.update({name: value})
    need(at == len(data), f"a {kind} is cut off")
    return types.SimpleNamespace(**values)
def hkdf(key, salt, info, length=32):
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)
def unseal(key, nonce, sealed, tied=b""):
    with contextlib.suppress(InvalidTag):
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, tied)
def age_open(data, text):  # the content of an age v1 file of one chunk, by the identity in a text (bech32: its last 6 characters are a checksum)
    line = need(re.search("^AGE-SECRET-KEY-1([A-Z0-9]{52})[A-Z0-9]{6}$", text, re.M), "the file holds no line AGE-SECRET-KEY-1...")
    values = ["QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L".index(c) for c in line[1]]
    secret = X25519PrivateKey.from_private_bytes((int("".join(f"{value:05b}" for value in values), 2) >> 4).to_bytes(32, "big"))
    public = secret.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    header, payload = re.fullmatch(rb"(.*?\n)--- [^\n]*\n(.*)", data, re.S).groups()
    for stanza in re.findall(rb"\n-> X25519 (\S+)\n(\S+)(?=\n)", header):
        share, body = (base64.b64decode(part + b"=" * (-len(part) % 4)) for part in stanza)
        wrap = hkdf(secret.exchange(X25519PublicKey.from_public_bytes(share)), share + public, b"age-encryption.org/v1/X25519")
        if key := unseal(wrap, bytes(12), body):
            return unseal(hkdf(key, payload[:16], b"payload"), bytes(11) + b"\1", payload[16:])
    need(False, "the recovery key opens no stanza of the key ring")
def uncode(frame, name):
    need(frame[:1] in (b"\0", b"\1"), f"{name}: unknown codec")
    return frame[1:] if frame[0] == 0 else zstandard.ZstdDecompressor().decompress(frame[1:], max_output_size=4 << 20)
def locate(o, at, seq):  # the frame that an extent or reference points to: in object `o`, or inline in commit `seq`
    opened_by = (o.name, o.epoch, o.salt, o.frames) if o else (seq, 0, b"", 0)
    return Frame(*opened_by, at.frame, at.stored_offset, at.stored_length, at.plain_length, at.checksum)
def escape(data):
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data)

class Store:
    def __init__(self, path, recovery):
        self.path = path[7:] if path.startswith("file://") else path
        data = need(self.get("holdfast-store"), f"{path} is no store: it has no holdfast-store")
        need(data[:12] == b"HFM1" + xxhash.xxh3_64_digest(data[12:])[::-1], "holdfast-store is damaged")
        marker = decode("Marker", data[12:])
        need(marker.level == 1 and {*marker.features} <= {"single-writer"}, f"the store is of feature level {marker.level} {marker.features}, this reads 1")
        self.id, self.cipher, self.key = marker.store_id, marker.cipher, bytes(32)
        need(self.id[0] & 128 if self.cipher == 2 else self.cipher == 1 and self.id[0] == 0, "the store id does not fit the cipher")
        if self.cipher == 2:
            text, derived = open(need(recovery, "the store is encrypted: --recovery-key FILE is needed")).read(), bytes(16)
            for name in self.list("keys/")[::-1]:  # whoever may create objects can put a bad one there: any that holds the key will do
                if bytes([derived[0] | 128]) + derived[1:] != self.id:
                    with contextlib.suppress(SystemExit, Exception):
                        self.key = age_open(self.message("KeyRing", name, None, cipher=1).age_file, text)
                        derived = hkdf(self.key, None, b"holdfast/v1/store-id", 16)
            need(bytes([derived[0] | 128]) + derived[1:] == self.id, "the recovery key opens no stanza of a key ring with this store's key")
    def get(self, name, offset=0, length=-1):
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.path, name), "rb") as file:
            file.seek(offset)
            return file.read(length)
    def list(self, folder):  # what lies in a folder and is called by a number, in order
        path = os.path.join(self.path, folder)
        return [folder + name for name in sorted(os.listdir(path)) if re.fullmatch("~?[0-9]+", name)] if os.path.isdir(path) else []
    def frame(self, kind, name, key, life, cipher, epoch, salt, count, number, stored):  # the plain content of one frame
        tied, kind = self.id + life + struct.pack("<QII", epoch, number, count) + name.encode(), bytes([KINDS[kind]])
        if cipher == 1:
            data = stored[:-16] if xxhash.xxh3_128_digest(kind + salt + tied + stored[:-16]) == stored[-16:] else None
        else:
            data = unseal(hkdf(key, salt, b"holdfast/v1" + kind + name.encode()), number.to_bytes(12, "little"), stored, tied)
        return uncode(need(data, f"{name}: frame {number} does not authenticate"), name)
    def message(self, kind, name, key, life=bytes(16), cipher=None):
        data, cipher = need(self.get(name), f"{name} is missing"), cipher or self.cipher
        count, epoch, salt = struct.unpack_from("<IQ32s", data, 8)
        need(data[:8] == struct.pack("<4sBBH", b"HFO1", KINDS[kind], cipher, 0) and count == 1, f"{name} is no {kind} of this store")
        message = decode(kind, self.frame(kind, name, key, life, cipher, epoch, salt, 1, 0, data[52:-4]))
        return types.SimpleNamespace(sha256=hashlib.sha256(data).digest(), **message.__dict__)

class Volume:
    def __init__(self, store, identity):
        records = need(store.list(f"names/{identity}/"), f"the store has no volume {identity}")
        self.store, self.identity, self.life = store, identity, store.message("NameRecord", records[-1], store.key).incarnation
        self.prefix = f"volumes/{uuid.UUID(bytes=self.life)}/"
        volume = store.message("Volume", self.prefix + "volume", store.key)
        need(volume.identity == identity, f"{self.prefix}volume is of another volume than {identity}")
        self.lives, origin = {self.prefix: (volume.data_key, self.life)}, volume.origin
        while origin:  # a clone reads packs of where it came from, and of where that came from
            prefix = f"volumes/{uuid.UUID(bytes=origin.incarnation)}/"
            self.lives[prefix], origin = (origin.data_key, origin.incarnation), store.message("Volume", prefix + "volume", store.key).origin
        self.key, self.get = volume.data_key, lambda kind, name: store.message(kind, self.prefix + name, self.key, self.life)
        self.clean()
        self.numbers = [int(name[-20:]) for name in store.list(self.prefix + "commits/")]
        controls = (self.get("Control", name[45:]) for name in store.list(self.prefix + "control/"))
        retirements = [control.retire for control in controls if control.retire]
        self.retired = {seq for retire in retirements for seq in retire.seqs}
        self.deleted = {name for retire in retirements for name in retire.objects}  # or soon to be
    def clean(self):
        self.inodes, self.names, self.extents, self.changed, self.hashes, self.links = {}, {}, {}, set(), {}, collections.Counter()
    @functools.lru_cache(maxsize=8)
    def record(self, seq):
        record = self.get("Record", f"commits/{seq:020}")
        record.kind = next((kind for kind in ("open", "commit", "close", "fence") if getattr(record, kind) is not None), None)
        need(record.seq == seq and record.kind, f"record {seq} says that it is {record.kind} {record.seq}")
        block = f"blocks/{seq // 1024:020}"
        record.void = bool(self.store.get(self.prefix + block, 0, 1)) and record.sha256 not in self.get("Block", block).record_hashes
        return record
    @functools.lru_cache(maxsize=256)
    def read(self, frame):  # the plain content of a frame, by its checksum the right one
        if isinstance(frame.place, str):
            name = os.path.normpath(self.prefix + frame.place)  # of an origin: ../<uuid>/packs/...
            life, stored = self.lives.get(name[:45]), self.store.get(name, frame.offset, frame.stored)
            need(stored is not None and life, f"{name} is missing, or of another volume")
            plain = self.store.frame("Pack", name, *life, self.store.cipher, *frame[1:5], stored)
        else:
            plain = uncode(self.record(frame.place).commit.inline_frames[frame.number], f"record {frame.place}")
        good = len(plain) == frame.plain and xxhash.xxh3_64_intdigest(plain) == frame.checksum
        return need(good, f"frame {frame.number} of {frame.place} is not what its reference says") and plain
    def clear(self, ino, start, end):  # makes [start, end) of a file a hole
        old, new = self.extents.get(ino, []), []
        if old and sum(old[-1][:2]) > start:
            for offset, length, skip, frame in old:
                first = max(end, offset)
                new += [(offset, min(length, start - offset), skip, frame)] if offset < start else []
                new += [(first, offset + length - first, skip + first - offset, frame)] if first < offset + length else []
            self.extents[ino] = new
    def apply(self, delta, seq):
        for name in [*getattr(delta, "removed_names", ()), *delta.names]:
            old = self.names.setdefault(name.dir, {}).pop(name.name, None)
            self.links[old] -= 1
            if name.ino:
                self.names[name.dir][name.name] = name.ino
                self.links[name.ino] += 1
            self.changed |= {old, name.ino} - {0, None}
        for ino in getattr(delta, "removed_inodes", ()):
            self.inodes.pop(ino, None), self.extents.pop(ino, None), self.changed.add(ino)
        self.inodes.update((inode.ino, inode) for inode in delta.inodes)
        for change in delta.extents:
            for hole in change.cleared:
                self.clear(change.ino, hole.offset, hole.offset + hole.length)
            for e in change.extents:
                self.clear(change.ino, e.offset, e.offset + e.length)
                frame = locate(delta.objects[e.object - 1] if e.object else None, e, e.inline_seq or seq)
                self.extents.setdefault(change.ino, []).append((e.offset, e.length, e.skip, frame))
                self.extents[change.ino].sort(key=lambda extent: extent[0])
        for ino in {inode.ino for inode in delta.inodes} | {change.ino for change in delta.extents}:
            self.changed.add(ino)
            self.hashes.pop(ino, None)
            if self.extents.get(ino) and sum(self.extents[ino][-1][:2]) > self.inodes[ino].size:
                self.clear(ino, self.inodes[ino].size, 1 << 64)
    def change(self, commit, seq):  # applies what a commit changes, or a branch, which has the form of one
        frames = (decode("Delta", self.read(locate(ref.object, ref, 0))) for ref in (commit.delta_frames if commit else ()))
        collections.deque((self.apply(delta, seq) for delta in itertools.chain(frames, [commit and commit.delta]) if delta), maxlen=0)
    def load(self, seq):  # the checkpoint at `seq`, into an empty volume; gives the record there
        index, block = self.get("Checkpoint", f"checkpoints/{seq:020}/index"), f"blocks/{seq // 1024:020}"
        if self.store.get(f"{self.prefix}commits/{seq:020}", 0, 1) is not None:
            record = self.record(seq)
        else:  # its number was freed: what it was is told by its block
            known = index.commit_hash in self.get("Block", block).record_hashes
            record = types.SimpleNamespace(sha256=index.commit_hash, epoch=0, void=not known)
        parts = [self.get("Part", ref.name) for ref in index.parts]
        good = index.commit_hash == record.sha256 and [part.sha256 for part in parts] == [ref.hash for ref in index.parts]
        need(good and index.seq == seq and not record.void, f"checkpoint {seq} is not of record {seq}, or has other parts")
        for part in parts:
            self.apply(part, 0)
        return record
    def base(self, seq):  # the checkpoint that a record is read from: the one that it, or the last before it that names any, names
        while seq and not ((record := self.record(seq)).open or record.commit):
            seq -= 1
        return (record.open or record.commit).checkpoint if seq else 0
    def replay(self, until, at, before=None):  # applies the records after checkpoint `at` (0: from the first), or after record `before`
        before = before or (self.load(at) if at else None)
        for seq in range((at or 0) + 1, until + 1):
            record = self.record(seq)
            follows = not before or record.parent_hash == before.sha256 and record.epoch >= before.epoch + (record.kind == "open")
            need(follows and not record.void, f"record {seq} is void, or does not follow record {seq - 1}")
            self.change(record.commit, seq)
            before = record
    def at(self, seq):  # the tree at a record, in an empty volume
        need(seq not in self.retired, f"record {seq} was retired")
        need(self.numbers and seq <= self.numbers[-1], f"the store does not hold record {seq}")
        self.clean(), self.replay(seq, self.base(seq))
    def content(self, ino):  # runs of a file's bytes in order, (offset, bytes); what lies between is zeros
        for offset, length, skip, frame in self.extents.get(ino, ()):
            yield offset, self.read(frame)[skip:skip + length]
    def sha256(self, ino):
        if ino not in self.hashes:
            digest, at = hashlib.sha256(), 0
            for offset, data in itertools.chain(self.content(ino), [(self.inodes[ino].size, b"")]):
                for start in range(at, offset, 1 << 20):
                    digest.update(bytes(min(offset - start, 1 << 20)))
                digest.update(data)
                at = offset + len(data)
            self.hashes[ino] = digest.hexdigest()
        return self.hashes[ino]
    def tree(self):  # (path, inode, what `tree` prints) of everything, parents first, in byte order
        stack = [(b".", 1)] if self.inodes else []
        while stack:
            path, ino = stack.pop()
            node, names = self.inodes[ino], sorted(self.names.get(ino, {}).items(), reverse=True)
            need(all(name not in (b"", b".", b"..") and b"/" not in name for name, _ in names), f"{escape(path)} has a name that is none")
            stack += [(name if path == b"." else path + b"/" + name, child) for name, child in names]
            form, subdirs = TYPES[node.mode >> 12], sum(self.inodes[child].mode >> 12 == 0o4 for _, child in names)
            yield path, node, lambda: {
                "path": escape(path), "type": form, "mode": node.mode & 0o7777, "uid": node.uid, "gid": node.gid, "size": node.size,
                "mtime": node.mtime, "rdev": node.rdev, "ino": ino, "nlink": 2 + subdirs if form == "dir" else self.links[ino],
                "target": escape(node.target) if form == "symlink" else None, "sha256": self.sha256(ino) if form == "file" else None,
                "xattrs": {escape(xattr.name): xattr.value.hex() for xattr in node.xattrs}}
    def export(self, into):
        done, root, _ = {}, os.geteuid() == 0, os.umask(0o077)  # its own until the end: modes come last, those of directories after what is in them
        for path, node, _ in self.tree():
            to, form = os.path.join(os.fsencode(into), path), TYPES[node.mode >> 12]
            if node.ino in done:
                os.link(done[node.ino][0], to, follow_symlinks=False)
            elif form == "file":
                with open(to, "xb") as file:
                    for offset, data in self.content(node.ino):
                        file.seek(offset), file.write(data)
                    file.truncate(node.size)
            else:
                os.makedirs(to) if form == "dir" else os.symlink(node.target, to) if form == "symlink" else os.mknod(to, node.mode, node.rdev)
            done.setdefault(node.ino, (to, node))
        for to, node in reversed(done.values()):  # children first, so that the times of directories stay
            root and os.chown(to, node.uid, node.gid, follow_symlinks=False)
            for xattr in node.xattrs:
                os.setxattr(to, xattr.name, xattr.value, follow_symlinks=False)
            os.path.islink(to) or os.chmod(to, node.mode & (0o7777 if root else 0o1777))
            os.utime(to, ns=(node.atime, node.mtime), follow_symlinks=False)

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, options in {"--store": {"required": True}, "--recovery-key": {}, "--at": {"type": int}, "--branch": {"type": int},
                          "command": {"choices": ["commits", "tree", "export"]}, "volume": {}, "dir": {"nargs": "?"}}.items():
        parser.add_argument(name, **options)
    volume = Volume(Store((args := parser.parse_intermixed_args()).store, args.recovery_key), args.volume)
    if args.command == "commits":
        for r in map(volume.record, volume.numbers):
            cut = {"cut_time": r.commit.cut_time, "full": bool(r.commit.full)} if r.commit else {}
            print(json.dumps({"seq": r.seq, "kind": "void" if r.void else r.kind, "epoch": r.epoch, "time": r.time, "hash": r.sha256.hex(), **cut}))
    else:
        heads = args.branch and f"{volume.prefix}branches/{args.branch:010}"  # the greatest is in force
        branch = heads and volume.get("Branch", heads[45:] + "/" + max(name for name in os.listdir(os.path.join(volume.store.path, heads)) if name[:4] == "head"))
        at = branch.base_seq if branch else max(volume.numbers, default=0) if args.at is None else args.at
        volume.at(at)
        branch and (need(volume.record(at).sha256 == branch.base_hash, f"record {at} is not the base of the branch"), volume.change(branch.state, at + 1))
        volume.export(args.dir) if args.command == "export" else [print(json.dumps(row())) for *_, row in volume.tree()]

__name__ == "__main__" and main()
