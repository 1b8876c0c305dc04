//! A tree of a commit written as a tar archive (pax): owners, modes, times to the nanosecond, links, extended attributes, ACLs and holes, as
//! GNU tar and others read them back (`tar --xattrs --xattrs-include='*' --acls -x`).
//!
//! What has no field in the old header stands in a pax header before it: long names, large numbers, `SCHILY.xattr.*`, `SCHILY.acl.*`. A file
//! with holes is a GNU sparse file, version 1.0: a map of what is data, then the data. Holes are those of the commit.

use super::copy::{CHUNK, Copied};
use super::reader::Tree;
use crate::types::{Attr, ByteRange, Fault, FaultKind, Ino, UnixNanos};
use std::collections::HashMap;
use std::io::Write;

const RECORD: usize = 512;
/// Entries listed at once.
const BATCH: usize = 1024;
/// What seven octal digits hold, for owners, and eleven, for sizes and times.
const OWNER_MAX: u64 = 0o7_777_777;
const NUMBER_MAX: u64 = 0o77_777_777_777;
const ACLS: [(&[u8], &str); 2] = [(b"system.posix_acl_access", "SCHILY.acl.access"), (b"system.posix_acl_default", "SCHILY.acl.default")];

/// Writes `attr` and all below it, under `name` (empty: the root of a volume, `.`). Gives what was written, and how many sockets were not:
/// no archive holds them.
pub(super) fn write(tree: &Tree, attr: &Attr, name: &[u8], out: &mut dyn Write) -> Result<(Copied, u64), Fault> {
    let mut tar = Tar { tree, out, links: HashMap::new(), done: Copied::default(), sockets: 0 };
    let name = if name.is_empty() { b"." } else { name };
    let mut waiting = vec![(name.to_vec(), attr.clone())];
    while let Some((path, attr)) = waiting.pop() {
        tar.one(&path, &attr)?;
        let mut after = 0;
        while attr.is_dir() {
            let batch = tree.cache().view(|view| view.entries(attr.ino, after, BATCH))?;
            let Some(last) = batch.last() else { break };
            after = last.cookie;
            waiting.extend(batch.into_iter().map(|entry| ([&path[..], &entry.name].join(&b'/'), entry.attr)));
        }
    }
    tar.put(&[0; 2 * RECORD])?;
    tar.out.flush()?;
    Ok((tar.done, tar.sockets))
}

struct Tar<'a> {
    tree: &'a Tree,
    out: &'a mut dyn Write,
    /// Where an inode with several names was written first.
    links: HashMap<Ino, Vec<u8>>,
    done: Copied,
    sockets: u64,
}

/// What an entry has in its header.
#[derive(Clone, Copy, Default)]
struct Header<'h> {
    kind: u8,
    link: &'h [u8],
    size: u64,
}

impl Tar<'_> {
    fn one(&mut self, path: &[u8], attr: &Attr) -> Result<(), Fault> {
        if attr.kind() == libc::S_IFSOCK {
            self.sockets += 1;
            return Ok(());
        }
        if !attr.is_dir() && attr.nlink > 1 {
            if let Some(first) = self.links.get(&attr.ino).cloned() {
                return self.head(path, attr, &Header { kind: b'1', link: &first, size: 0 }, Pax::default());
            }
            self.links.insert(attr.ino, path.to_vec());
        }
        self.done.inodes += 1;
        let pax = self.extended(attr)?;
        let plain = |kind| Header { kind, ..Header::default() };
        match attr.kind() {
            libc::S_IFREG => self.file(path, attr, pax),
            libc::S_IFDIR => self.head(&[path, b"/"].concat(), attr, &plain(b'5'), pax),
            libc::S_IFLNK => {
                let link = self.tree.cache().view(|view| view.target(attr.ino))?.unwrap_or_default();
                self.head(path, attr, &Header { kind: b'2', link: &link, size: 0 }, pax)
            }
            libc::S_IFCHR => self.head(path, attr, &plain(b'3'), pax),
            libc::S_IFBLK => self.head(path, attr, &plain(b'4'), pax),
            _ => self.head(path, attr, &plain(b'6'), pax),
        }
    }

    /// Attributes that only a pax header holds.
    fn extended(&self, attr: &Attr) -> Result<Pax, Fault> {
        let mut pax = Pax::default();
        for name in self.tree.cache().view(|view| view.xattrs(attr.ino))? {
            let value = self.tree.cache().view(|view| view.xattr(attr.ino, &name))?.unwrap_or_default();
            let acl = ACLS.iter().find(|(xattr, _)| *xattr == name).and_then(|(_, key)| Some((*key, acl_text(&value)?)));
            match acl {
                Some((key, text)) => pax.push(key.as_bytes(), text.as_bytes()),
                None => pax.push(&[b"SCHILY.xattr.", &escaped(&name)[..]].concat(), &value),
            }
        }
        Ok(pax)
    }

    fn file(&mut self, path: &[u8], attr: &Attr, mut pax: Pax) -> Result<(), Fault> {
        let mut data = self.data(attr)?;
        let stored: u64 = data.iter().map(|range| range.end - range.start).sum();
        self.done.bytes += attr.size;
        if stored == attr.size {
            self.head(path, attr, &Header { kind: b'0', link: b"", size: stored }, pax)?;
        } else {
            if data.last().is_none_or(|last| last.end < attr.size) {
                data.push(attr.size..attr.size);
            }
            let map = sparse_map(&data);
            for (key, value) in [("major", "1".to_owned()), ("minor", "0".to_owned()), ("realsize", attr.size.to_string())] {
                pax.push(format!("GNU.sparse.{key}").as_bytes(), value.as_bytes());
            }
            pax.push(b"GNU.sparse.name", path);
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let header = Header { kind: b'0', link: b"", size: map.len() as u64 + stored };
            self.head(&[b"GNUSparseFile.0/", name].concat(), attr, &header, pax)?;
            self.put(&map)?;
        }
        let mut bytes = Vec::new();
        for range in data {
            let mut at = range.start;
            while at < range.end {
                let wanted = usize::try_from(range.end - at).map_or(CHUNK, |left| left.min(CHUNK));
                self.tree.read(attr.ino, at, wanted, &mut bytes)?;
                if bytes.len() != wanted {
                    return Err(Fault::new(FaultKind::Damaged, format!("inode {} ends at {at}, before its size", attr.ino)));
                }
                self.put(&bytes)?;
                at += wanted as u64;
            }
        }
        self.pad(stored)
    }

    /// What of a file is no hole.
    fn data(&self, attr: &Attr) -> Result<Vec<ByteRange>, Fault> {
        let mut data: Vec<ByteRange> = Vec::new();
        for extent in self.tree.cache().extents_at(attr.ino)? {
            let range = extent.range();
            match data.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => data.push(range),
            }
        }
        Ok(data)
    }

    fn head(&mut self, path: &[u8], attr: &Attr, header: &Header<'_>, mut pax: Pax) -> Result<(), Fault> {
        pax.time("mtime", attr.mtime);
        pax.time("atime", attr.atime);
        let plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        for (key, text) in [("path", path), ("linkpath", header.link)] {
            if !plain(text) {
                pax.push(key.as_bytes(), text);
            }
        }
        if [path, header.link].iter().any(|text| std::str::from_utf8(text).is_err()) {
            pax.first(b"hdrcharset", b"BINARY");
        }
        for (key, number, most) in
            [("uid", u64::from(attr.uid), OWNER_MAX), ("gid", u64::from(attr.gid), OWNER_MAX), ("size", header.size, NUMBER_MAX)]
        {
            if number > most {
                pax.push(key.as_bytes(), number.to_string().as_bytes());
            }
        }
        let length = pax.0.len() as u64;
        self.put(&record(b"././@PaxHeader", attr, &Header { kind: b'x', link: b"", size: length }))?;
        self.put(&pax.0)?;
        self.pad(length)?;
        self.put(&record(path, attr, &Header { size: header.size.min(NUMBER_MAX), ..*header }))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.out.write_all(bytes).map_err(|error| Fault::with(FaultKind::Local, "the archive cannot be written", error))
    }

    fn pad(&mut self, length: u64) -> Result<(), Fault> {
        let over = usize::try_from(length % RECORD as u64).unwrap_or(0);
        if over == 0 { Ok(()) } else { self.put(&[0; RECORD][over..]) }
    }
}

/// Records of a pax header: `LENGTH KEY=VALUE\n`, the length counting itself.
#[derive(Default)]
struct Pax(Vec<u8>);

impl Pax {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend([length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
    }

    /// What says how the others are to be read.
    fn first(&mut self, key: &[u8], value: &[u8]) {
        let rest = std::mem::take(&mut self.0);
        self.push(key, value);
        self.0.extend(rest);
    }

    fn time(&mut self, key: &str, nanos: UnixNanos) {
        let sign = if nanos < 0 { "-" } else { "" };
        let (seconds, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
        self.push(key.as_bytes(), format!("{sign}{seconds}.{rest:09}").as_bytes());
    }
}

/// The old header of one entry.
fn record(path: &[u8], attr: &Attr, header: &Header<'_>) -> [u8; RECORD] {
    let mut block = [0u8; RECORD];
    let mut put = |at: usize, bytes: &[u8], most: usize| {
        let length = bytes.len().min(most);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    let octal = |number: u64, digits: usize| format!("{number:0digits$o}\0").into_bytes();
    let seconds = u64::try_from(attr.mtime.div_euclid(1_000_000_000)).unwrap_or(0);
    put(0, path, 100);
    put(100, &octal(u64::from(attr.mode & 0o7777), 7), 8);
    put(108, &octal(u64::from(attr.uid).min(OWNER_MAX), 7), 8);
    put(116, &octal(u64::from(attr.gid).min(OWNER_MAX), 7), 8);
    put(124, &octal(header.size, 11), 12);
    put(136, &octal(seconds.min(NUMBER_MAX), 11), 12);
    put(148, b"        ", 8);
    put(156, &[header.kind], 1);
    put(157, header.link, 100);
    put(257, b"ustar\x0000", 8);
    if matches!(header.kind, b'3' | b'4') {
        put(329, &octal(nix::sys::stat::major(attr.rdev), 7), 8);
        put(337, &octal(nix::sys::stat::minor(attr.rdev), 7), 8);
    }
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The map of a sparse file: how many runs of data, then of each where it begins and its length; whole records.
fn sparse_map(data: &[ByteRange]) -> Vec<u8> {
    let mut map = format!("{}\n", data.len());
    for range in data {
        map += &format!("{}\n{}\n", range.start, range.end - range.start);
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(RECORD), 0);
    map
}

/// A name of an attribute as a key: `=` ends a key.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    for byte in name {
        match byte {
            b'=' => key.extend(b"%3D"),
            b'%' => key.extend(b"%25"),
            other => key.push(*other),
        }
    }
    key
}

/// An ACL as the kernel keeps it, as text; `None`: it is none.
fn acl_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_at_checked(4)?;
    if version != [2, 0, 0, 0] || !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut lines = Vec::new();
    for entry in entries.chunks(8) {
        let short = |at: usize| Some(u16::from_le_bytes([*entry.get(at)?, *entry.get(at + 1)?]));
        let id = u32::from_le_bytes(entry.get(4..)?.try_into().ok()?);
        let who = match short(0)? {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let allows = |bit: u16, letter: char| if short(2).is_some_and(|perm| perm & bit != 0) { letter } else { '-' };
        lines.push(format!("{who}:{}{}{}", allows(4, 'r'), allows(2, 'w'), allows(1, 'x')));
    }
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_of_a_pax_record_counts_itself() {
        for length in [0, 1, 80, 85, 86, 87, 88, 980, 985, 986, 987, 990, 5000] {
            let mut pax = Pax::default();
            pax.push(b"path", &vec![b'x'; length]);
            let told: usize = std::str::from_utf8(pax.0.split(|byte| *byte == b' ').next().unwrap()).unwrap().parse().unwrap();
            assert_eq!(told, pax.0.len(), "{length}");
        }
    }

    #[test]
    fn acl_is_told_as_text() {
        let entry = |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
        let acl = [vec![2, 0, 0, 0], entry(1, 7, !0), entry(2, 4, 1000), entry(4, 5, !0), entry(16, 5, !0), entry(32, 0, !0)].concat();
        assert_eq!(acl_text(&acl).unwrap(), "user::rwx\nuser:1000:r--\ngroup::r-x\nmask::r-x\nother::---");
        assert_eq!((acl_text(&acl[..7]), acl_text(b"")), (None, None));
    }
}
