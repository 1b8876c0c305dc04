//! The volume of the golden stores.

use crate::world::{Style, World};
use holdfast::rpc;
use holdfast::types::StoreKey;

/// A volume of two epochs and every kind of thing, committed in every style, with two checkpoints.
pub(crate) fn example(key: Option<(&StoreKey, Vec<rpc::Recipient>)>) -> World {
    let mut world = World::new(key);
    let noise: Vec<u8> = (0..6_000u32).flat_map(|i| holdfast::format::codec::checksum(&i.to_le_bytes()).to_le_bytes()).collect();
    world.open();
    world.commit(Style::Inline);
    let docs = world.mkdir(1, b"docs");
    let note = world.create(docs, b"note.txt", b"the first line\n");
    world.create(1, b"empty", b"");
    world.commit(Style::Inline);
    let big = world.create(1, b"big.bin", &noise[..30_000]);
    world.write(big, 5_000_000, &noise[30_000..]);
    world.write(note, 15, &b"and many more\n".repeat(5000));
    let deep = (0..4).fold(docs, |dir, i| world.mkdir(dir, format!("level {i}").as_bytes()));
    for i in 0..40 {
        world.create(deep, format!("file {i:03}").as_bytes(), format!("content of {i}").as_bytes());
    }
    world.commit(Style::Framed);
    world.make(1, b"link", 0o120_777, b"docs/note.txt");
    world.make(1, b"odd \xff\n\\ name", 0o010_600, b"");
    let device = world.make(1, b"null", 0o020_666, b"");
    world.chown(device, 0, 0o666, 0x103);
    world.make(1, b"sock", 0o140_755, b"");
    world.link(docs, b"second name", big);
    world.xattr(note, b"user.b", b"\x00\xffvalue");
    world.xattr(note, b"user.a", b"");
    world.write(big, 10_000, b"a patch in the middle");
    world.punch(big, 5_000_100..5_010_000);
    world.commit(Style::Packed);
    world.checkpoint(700);
    world.truncate(note, 3000);
    world.truncate(note, 9000);
    world.write(note, 8000, b"after a hole");
    world.rename((docs, b"level 0"), (1, b"moved"));
    for i in 0..20 {
        world.unlink(deep, format!("file {i:03}").as_bytes());
    }
    world.chown(note, 4242, 0o4711, 0);
    world.commit(Style::Inline);
    world.close();
    world.open();
    world.rename((1, b"empty"), (1, b"link"));
    world.unlink(1, b"big.bin");
    world.truncate(big, 20_000);
    world.commit(Style::Framed);
    world.checkpoint(1 << 20);
    world.create(1, &[b'n'; 255], &noise[..4097]);
    world.unlink(docs, b"second name");
    world.commit(Style::Packed);
    world.close();
    world
}
