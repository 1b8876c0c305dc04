//! Identifiers: each its own type, so that one cannot be passed for another.

use std::fmt;
use zeroize::Zeroize;

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// From exactly the right number of bytes, else `None`.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = hex::FromHexError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)?;
                Ok(Self(bytes))
            }
        }
    };
}

bytes_id!(
    /// The store's identity, in its marker.
    StoreId, 16);
bytes_id!(
    /// One life of a volume (a uuid).
    Incarnation, 16);
bytes_id!(
    /// The process that writes the log.
    WriterId, 16);
bytes_id!(
    /// Tells two attempts at one number apart.
    Nonce, 16);
bytes_id!(
    /// A node's cache directory, from its creation on.
    CacheId, 16);
bytes_id!(
    /// SHA-256 of a stored object.
    Hash, 32);

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Zeroize, zeroize::ZeroizeOnDrop)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret!(
    /// Seals volume records; itself wrapped for the recipients in `keys/<n>`.
    StoreKey);
secret!(
    /// Seals all objects of one incarnation.
    DataKey);

/// `{cluster}/{namespace}/{name}`, or `group/name` / `name` on the command line: 1 to 3 segments, each 1 to 253 bytes of
/// `[A-Za-z0-9._-]`, not beginning with a dot or dash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(String);

/// Why a text is no volume name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no volume name: {why}; a name is `name`, `group/name` or `cluster/namespace/name` of letters, digits, `.`, `_` and `-`"
)]
pub struct IdentityError {
    text: String,
    why: &'static str,
}

impl Identity {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let refuse = |why| Err(IdentityError { text: text.escape_debug().to_string(), why });
        let segments: Vec<&str> = text.split('/').collect();
        if segments.len() > 3 {
            return refuse("more than three segments");
        }
        for segment in segments {
            if segment.is_empty() {
                return refuse("an empty segment");
            }
            if segment.len() > 253 {
                return refuse("a segment of more than 253 bytes");
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
                return refuse("a character that is not allowed");
            }
            if segment.starts_with(['.', '-']) {
                return refuse("a segment that begins with `.` or `-`");
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Identity {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
