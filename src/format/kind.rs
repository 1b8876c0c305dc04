//! The kinds of sealed objects, their numbers, and how large each may be.

use super::limits;

/// What an object is: in its header, and in its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the object of that name in proto/volume.proto")]
pub enum Kind {
    KeyRing = 1,
    Name = 2,
    Volume = 3,
    LogRecord = 4,
    Pack = 5,
    CheckpointIndex = 6,
    CheckpointPart = 7,
    Control = 8,
    Block = 9,
    Branch = 10,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::KeyRing,
        Self::Name,
        Self::Volume,
        Self::LogRecord,
        Self::Pack,
        Self::CheckpointIndex,
        Self::CheckpointPart,
        Self::Control,
        Self::Block,
        Self::Branch,
    ];

    /// In words, for messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyRing => "key ring",
            Self::Name => "name record",
            Self::Volume => "volume record",
            Self::LogRecord => "log record",
            Self::Pack => "pack",
            Self::CheckpointIndex => "checkpoint index",
            Self::CheckpointPart => "checkpoint part",
            Self::Control => "control record",
            Self::Block => "block marker",
            Self::Branch => "branch",
        }
    }

    /// The most bytes an object of this kind may have.
    #[must_use]
    pub fn bytes_max(self) -> usize {
        match self {
            Self::LogRecord => limits::COMMIT_BYTES_MAX,
            Self::Pack => limits::PACK_BYTES_MAX,
            _ => limits::OBJECT_BYTES_MAX,
        }
    }
}
