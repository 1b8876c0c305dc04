//! What a decoder takes and an encoder refuses to write: every length is checked against this table before memory is
//! allocated for it. docs/format.md prints the same table; a test compares them.

/// A limit: its name in docs/format.md, and its value.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $kind = $value;)*
        /// All limits by name, for the test that compares them with docs/format.md.
        pub const ALL: &[(&str, u64)] = &[$((stringify!($name), $name as u64)),*];
    };
}

limits! {
    /// Plain bytes of one frame that holds file content.
    EXTENT_PLAIN_MAX: usize = 1 << 20;
    /// Plain bytes of one frame that holds a message.
    MESSAGE_PLAIN_MAX: usize = 4 << 20;
    /// Bytes of a stored object of any other kind than those below.
    OBJECT_BYTES_MAX: usize = 4 << 20;
    /// Bytes of a stored log record.
    COMMIT_BYTES_MAX: usize = 4 << 20;
    /// Bytes of a stored pack.
    PACK_BYTES_MAX: usize = 32 << 20;
    /// Frames in one object.
    FRAMES_MAX: usize = 1 << 16;
    /// Frames that hold a commit's delta.
    DELTA_FRAMES_MAX: usize = 4096;
    /// Small extents inline in one commit.
    INLINE_FRAMES_MAX: usize = 4096;
    /// Bytes of a directory entry's name, and of an xattr's.
    NAME_BYTES_MAX: usize = 255;
    /// Bytes of a symbolic link's target.
    TARGET_BYTES_MAX: usize = 4095;
    /// Bytes of an xattr's value.
    XATTR_BYTES_MAX: usize = 65536;
    /// Bytes of all xattrs of an inode together.
    XATTRS_BYTES_MAX: usize = 1 << 20;
    /// Bytes of any text: policy, note, host, reason.
    TEXT_BYTES_MAX: usize = 65536;
    /// Bytes of an object's name.
    OBJECT_NAME_MAX: usize = 1024;
    /// Bytes of a file.
    FILE_BYTES_MAX: u64 = 16 << 40;
    /// Bytes of the age file in a key ring.
    AGE_FILE_MAX: usize = 65536;
    /// Recipients of a key ring.
    RECIPIENTS_MAX: usize = 256;
    /// Numbers in a block marker.
    BLOCK_RECORDS: usize = 1024;
}
