#!/usr/bin/python3
"""Reads every record, checkpoint and extent of a volume by the independent reader, and tells what the tests ask: counts of the records by kind,
and which packs and checkpoints no record needs. Options as of holdfast_reader.py."""
import argparse, collections, json, os, sys

sys.dont_write_bytecode = True  # nothing is left behind beside the sources
from holdfast_reader import Store, Volume, need


class Checked(Volume):
    """A volume that notes which objects its trees are made of."""

    def __init__(self, store, identity):
        self.used = set()
        super().__init__(store, identity)
        self.points = [int(name[-20:]) for name in store.list(self.prefix + "checkpoints/") if store.get(name + "/index", 0, 1)]

    def change(self, commit, seq):
        self.used.update(self.prefix + ref.object.name for ref in (commit.delta_frames if commit else ()))
        super().change(commit, seq)

    def load(self, seq):
        index = self.get("Checkpoint", f"checkpoints/{seq:020}/index")
        self.used.update([f"{self.prefix}checkpoints/{seq:020}/index", *(self.prefix + ref.name for ref in index.parts)])
        return super().load(seq)

    def check(self):
        """Of each record that is not retired: it follows the one before; names and inodes agree; each frame of its tree is right."""
        seen, counts, last = set(), collections.Counter(), None
        for seq in (seq for seq in range(1, self.numbers[-1] + 1) if seq not in self.retired):
            base = self.base(seq)
            self.replay(seq, seq - 1, self.record(seq - 1)) if last == (seq - 1, base) else self.at(seq)
            last, record = (seq, base), self.record(seq)
            counts[record.kind] += 1
            self.agrees(seq)
            self.frames(seen)
            self.changed.clear()
            if seq in self.points:
                self.same_as_checkpoint(seq)
        there = [self.prefix + path for top in ("packs", "checkpoints") for path in self.walk(top)]
        return {"records": sum(counts.values()), **counts, "retired": len(self.retired), "checkpoints": len(self.points), "extents": len(seen),
                "unneeded": sorted(set(there) - self.used)}  # what no such record needs: a writer's at work, or of nobody

    def agrees(self, seq):
        for ino in self.changed:
            right = bool(self.links[ino] or ino == 1) == (ino in self.inodes) and (ino in self.inodes or not self.names.get(ino))
            need(right, f"record {seq}: inode {ino} has {self.links[ino]} names, {len(self.names.get(ino, ()))} inside")

    def frames(self, seen):
        frames = {extent[3]: extent for ino in self.changed for extent in self.extents.get(ino, ())}
        self.used.update(os.path.normpath(self.prefix + frame.place) for frame in frames if isinstance(frame.place, str))
        for _, length, skip, frame in (extent for frame, extent in frames.items() if frame not in seen):
            need(skip + length <= len(self.read(frame)), f"frame {frame.number} of {frame.place} is too short")
            seen.add(frame)

    def same_as_checkpoint(self, seq):
        """The record is read from an older one. What no later record has of the checkpoint any more, gc may have deleted."""
        other = Volume(self.store, self.identity)
        other.load(seq)
        there = lambda extents: not any(os.path.normpath(f"{self.prefix}{frame.place}") in self.deleted for _, _, _, frame in extents)
        moved = [ino for ino in self.inodes if other.extents.get(ino, []) != self.extents.get(ino, []) and there(other.extents.get(ino, []))]
        names = [{ino: names for ino, names in volume.names.items() if names} for volume in (self, other)]
        same = names[0] == names[1] and self.inodes == other.inodes and all(self.sha256(ino) == other.sha256(ino) for ino in moved)
        need(same, f"checkpoint {seq} is not its record's tree")

    def walk(self, top):
        """Every object below a folder of the volume."""
        volume = os.path.join(self.store.path, self.prefix)
        return [os.path.relpath(os.path.join(at, name), volume) for at, _, names in os.walk(os.path.join(volume, top)) for name in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--recovery-key")
    parser.add_argument("volume")
    arguments = parser.parse_args()
    print(json.dumps(Checked(Store(arguments.store, arguments.recovery_key), arguments.volume).check()))


if __name__ == "__main__":
    main()
