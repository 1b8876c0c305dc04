//! What is said on the keeper's socket; the same file in both programs.
//!
//! One packet is one message (`SOCK_SEQPACKET`), at most [`MESSAGE_MAX`] bytes, and one descriptor beside it where a table
//! says so. A message is its whole length (u32), [`VERSION`] (u16), its kind (u16), then its fields; numbers are little-endian,
//! a text is its length (u32) and its bytes, a list is its count (u32) and its members. A packet that is not exactly such a message
//! ends the line on which it came: there is no answer to it, and no second try.
//!
//! | request | fields | answer |
//! |---|---|---|
//! | 1 keep, with a descriptor | record | done, busy, refused |
//! | 2 take | dir | kept with the descriptor, nothing, busy |
//! | 3 let go | dir | done |
//! | 4 serves | dir, process, note | done, nothing |
//! | 5 list | first | list |
//! | 6 retire | | done, refused |
//!
//! A line that kept or took a mount *attends* it until it is hung up. A newer keeper goes on to understand version 1: the
//! supervisors of older drivers talk to it.
#![allow(unreachable_pub, reason = "a part of the library, and all of it private to the keeper")]
#![allow(dead_code, reason = "each of the two programs says one half and hears the other")]

use std::fmt;

/// Of the messages.
pub const VERSION: u16 = 1;
/// Bytes of one message: a socket takes that much at once with its usual buffers.
pub const MESSAGE_MAX: usize = 96 << 10;
/// Mounts of one keeper.
pub const MOUNTS_MAX: usize = 256;
/// Lines at a time; with the mounts' descriptors still under the usual limit of 1,024 open files.
pub const LINES_MAX: usize = 512;
/// Arguments, and variables, of one command.
pub const WORDS_MAX: usize = 4096;
/// In the place of a process: it is in another container than the keeper, which has no number for it.
pub const UNSEEN: u32 = u32::MAX;
/// Bytes of a path, a name, a note.
const TEXT_MAX: usize = 4096;
/// Bytes of the recorded INIT.
const INIT_MAX: usize = 64;
const HEAD: usize = 8;

/// A mount, as the keeper knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Where: absolute; the mount's name in every request.
    pub dir: Vec<u8>,
    /// The volume's identity.
    pub volume: Vec<u8>,
    /// The directory of its cache.
    pub cache: Vec<u8>,
    /// What INIT agreed on: the keeper does not look into it.
    pub init: Vec<u8>,
    /// How a successor is started when nobody attends the mount; none: whoever started this one will.
    pub restart: Option<Restart>,
}

/// A command, as it can be given again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restart {
    /// Its working directory.
    pub cwd: Vec<u8>,
    /// Where its standard error goes.
    pub log: Vec<u8>,
    /// The program and its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// All of its environment: `NAME=value`.
    pub environment: Vec<Vec<u8>>,
}

/// How a mount stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Where.
    pub dir: Vec<u8>,
    /// The volume's identity.
    pub volume: Vec<u8>,
    /// The directory of its cache.
    pub cache: Vec<u8>,
    /// The process that attends it; 0: nobody does; [`UNSEEN`]: one does that the keeper cannot see.
    pub attendant: u32,
    /// The driver's process; 0: none serves.
    pub driver: u32,
    /// For so many seconds.
    pub seconds: u64,
    /// How often the keeper itself started a successor.
    pub starts: u32,
    /// What the attendant said last about it; may be empty.
    pub note: Vec<u8>,
}

/// To the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Hold this descriptor; the line attends the mount from now on.
    Keep(Record),
    /// Give me the descriptor of this mount; the line attends it from now on.
    Take(Vec<u8>),
    /// The mount is gone in order, or given up.
    LetGo(Vec<u8>),
    /// This process serves it now (0: none does), and a word about it for a person.
    Serves(Vec<u8>, u32, Vec<u8>),
    /// What do you hold, from this place of the list on?
    List(u32),
    /// End, if every mount is attended: the attendants start the keeper that is on disk now, and hand their mounts to it.
    Retire,
}

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// So be it.
    Done,
    /// No such mount.
    Nothing,
    /// Another process attends it.
    Busy(u32),
    /// Not done, and why.
    Refused(Vec<u8>),
    /// The record; the descriptor is beside it, the command is not in it. The second is the process that served last, 0: none.
    Kept(Record, u32),
    /// The keeper's process, and as many as there was room for; more follow if the flag says so.
    List(u32, Vec<Standing>, bool),
}

/// Not a message of this protocol, or more than its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a message for a keeper: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        Self(bytes)
    }

    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(text);
    }

    fn words(&mut self, words: &[Vec<u8>]) {
        self.number(u32::try_from(words.len()).unwrap_or(u32::MAX));
        words.iter().for_each(|word| self.text(word));
    }

    fn record(&mut self, record: &Record) {
        let Record { dir, volume, cache, init, restart } = record;
        [dir, volume, cache, init].into_iter().for_each(|text| self.text(text));
        self.number(u32::from(restart.is_some()));
        if let Some(Restart { cwd, log, arguments, environment }) = restart {
            self.text(cwd);
            self.text(log);
            self.words(arguments);
            self.words(environment);
        }
    }

    fn standing(&mut self, standing: &Standing) {
        let Standing { dir, volume, cache, attendant, driver, seconds, starts, note } = standing;
        [dir, volume, cache].into_iter().for_each(|text| self.text(text));
        self.number(*attendant);
        self.number(*driver);
        self.0.extend_from_slice(&seconds.to_le_bytes());
        self.number(*starts);
        self.text(note);
    }

    fn done(mut self) -> Result<Vec<u8>, Malformed> {
        if self.0.len() > MESSAGE_MAX {
            return Err(Malformed("too long"));
        }
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        Ok(self.0)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    // The kind, and its fields.
    fn new(bytes: &'a [u8]) -> Result<(u16, Self), Malformed> {
        let (head, fields) = bytes.split_at_checked(HEAD).ok_or(Malformed("no head"))?;
        let mut head = Self(head);
        let length = head.number()?;
        if usize::try_from(length) != Ok(bytes.len()) || bytes.len() > MESSAGE_MAX {
            return Err(Malformed("its length is not that of its packet"));
        }
        let (version, kind) = (head.short()?, head.short()?);
        if version != VERSION {
            return Err(Malformed("of another version"));
        }
        Ok((kind, Self(fields)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it ends in the midst of a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn short(&mut self) -> Result<u16, Malformed> {
        self.take(2)?.try_into().map(u16::from_le_bytes).map_err(|_| Malformed("a number"))
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| Malformed("a number"))
    }

    fn long(&mut self) -> Result<u64, Malformed> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Malformed("a number"))
    }

    fn text(&mut self, most: usize) -> Result<Vec<u8>, Malformed> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length > most {
            return Err(Malformed("a text that is too long"));
        }
        Ok(self.take(length)?.to_vec())
    }

    fn words(&mut self) -> Result<Vec<Vec<u8>>, Malformed> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > WORDS_MAX {
            return Err(Malformed("too many words"));
        }
        // Each is read before the next is made room for: a count alone costs nothing.
        (0..count).map(|_| self.text(MESSAGE_MAX)).collect()
    }

    fn record(&mut self) -> Result<Record, Malformed> {
        let (dir, volume, cache, init) = (self.text(TEXT_MAX)?, self.text(TEXT_MAX)?, self.text(TEXT_MAX)?, self.text(INIT_MAX)?);
        let restart = match self.number()? {
            0 => None,
            1 => {
                Some(Restart { cwd: self.text(TEXT_MAX)?, log: self.text(TEXT_MAX)?, arguments: self.words()?, environment: self.words()? })
            }
            _ => return Err(Malformed("neither with a command nor without")),
        };
        if restart.as_ref().is_some_and(|restart| restart.arguments.is_empty()) {
            return Err(Malformed("a command without a program"));
        }
        Ok(Record { dir, volume, cache, init, restart })
    }

    fn standing(&mut self) -> Result<Standing, Malformed> {
        Ok(Standing {
            dir: self.text(TEXT_MAX)?,
            volume: self.text(TEXT_MAX)?,
            cache: self.text(TEXT_MAX)?,
            attendant: self.number()?,
            driver: self.number()?,
            seconds: self.long()?,
            starts: self.number()?,
            note: self.text(TEXT_MAX)?,
        })
    }

    fn end<T>(self, message: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(message) } else { Err(Malformed("more than its fields")) }
    }
}

impl Request {
    /// The packet.
    ///
    /// # Errors
    /// It is longer than a message may be.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let kind = match self {
            Self::Keep(_) => 1,
            Self::Take(_) => 2,
            Self::LetGo(_) => 3,
            Self::Serves(..) => 4,
            Self::List(_) => 5,
            Self::Retire => 6,
        };
        let mut writer = Writer::new(kind);
        match self {
            Self::Keep(record) => writer.record(record),
            Self::Take(dir) | Self::LetGo(dir) => writer.text(dir),
            Self::Serves(dir, driver, note) => {
                writer.text(dir);
                writer.number(*driver);
                writer.text(note);
            }
            Self::List(first) => writer.number(*first),
            Self::Retire => {}
        }
        writer.done()
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// It is no message of this version, or passes a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, mut reader) = Reader::new(bytes)?;
        let request = match kind {
            1 => Self::Keep(reader.record()?),
            2 => Self::Take(reader.text(TEXT_MAX)?),
            3 => Self::LetGo(reader.text(TEXT_MAX)?),
            4 => Self::Serves(reader.text(TEXT_MAX)?, reader.number()?, reader.text(TEXT_MAX)?),
            5 => Self::List(reader.number()?),
            6 => Self::Retire,
            _ => return Err(Malformed("of no known kind")),
        };
        reader.end(request)
    }
}

impl Answer {
    /// The packet.
    ///
    /// # Errors
    /// It is longer than a message may be.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let kind = match self {
            Self::Done => 1,
            Self::Nothing => 2,
            Self::Busy(_) => 3,
            Self::Refused(_) => 4,
            Self::Kept(..) => 5,
            Self::List(..) => 6,
        };
        let mut writer = Writer::new(kind);
        match self {
            Self::Done | Self::Nothing => {}
            Self::Busy(process) => writer.number(*process),
            Self::Refused(why) => writer.text(why),
            Self::Kept(record, driver) => {
                writer.record(record);
                writer.number(*driver);
            }
            Self::List(process, list, more) => {
                writer.number(*process);
                writer.number(u32::from(*more));
                writer.number(u32::try_from(list.len()).unwrap_or(u32::MAX));
                list.iter().for_each(|standing| writer.standing(standing));
            }
        }
        writer.done()
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// It is no message of this version, or passes a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, mut reader) = Reader::new(bytes)?;
        let answer = match kind {
            1 => Self::Done,
            2 => Self::Nothing,
            3 => Self::Busy(reader.number()?),
            4 => Self::Refused(reader.text(TEXT_MAX)?),
            5 => Self::Kept(reader.record()?, reader.number()?),
            6 => {
                let (process, more, count) = (reader.number()?, reader.number()? != 0, reader.number()?);
                if usize::try_from(count).unwrap_or(usize::MAX) > MOUNTS_MAX {
                    return Err(Malformed("more mounts than a keeper holds"));
                }
                let list = (0..count).map(|_| reader.standing()).collect::<Result<_, _>>()?;
                Self::List(process, list, more)
            }
            _ => return Err(Malformed("of no known kind")),
        };
        reader.end(answer)
    }
}

/// The largest [`Standing`] there can be, in a packet.
pub(crate) const STANDING_MAX: usize = 4 * (TEXT_MAX + 4) + 24;
