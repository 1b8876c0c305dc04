//! What a command is about: a volume, a path in one, or a mounted directory.

use crate::types::{Identity, IdentityError, show_name};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// `VOLUME:PATH`: a path in a volume, from its root. `VOLUME:` and `VOLUME` are its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The volume.
    pub volume: Identity,
    /// Bytes, without a `/` at either end; empty: the root.
    pub path: Vec<u8>,
}

/// Why a text is no `VOLUME:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The part before the colon.
    #[error(transparent)]
    Volume(#[from] IdentityError),
    /// The part behind it.
    #[error("the path `{0}` has a part `..` or `.`; a path in a volume is written out, such as `group/name:dir/file`")]
    Dots(String),
}

impl Target {
    /// Reads `VOLUME:PATH`; names that are not UTF-8 are taken as they are.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse(text: OsString) -> Result<Self, TargetError> {
        let bytes = text.into_vec();
        // No volume name holds a colon, so the first one ends it.
        let colon = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
        let (volume, rest) = bytes.split_at(colon);
        let volume = Identity::parse(&String::from_utf8_lossy(volume))?;
        let parts: Vec<&[u8]> = rest.get(1..).unwrap_or_default().split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        if parts.iter().any(|part| matches!(*part, b"." | b"..")) {
            return Err(TargetError::Dots(String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).escape_debug().to_string()));
        }
        Ok(Self { volume, path: parts.join(&b'/') })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/{}", self.volume, show_name(&self.path))
    }
}

/// A volume by name, or the directory where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By name.
    Volume(Identity),
    /// By its mount.
    Dir(PathBuf),
}

impl Which {
    /// Reads `VOLUME` or `DIR`. A directory begins with `/`, `./` or `../`, or is `.` or `..`: no volume name does.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: OsString) -> Result<Self, IdentityError> {
        if text.as_bytes().starts_with(b"/") || text.as_bytes().starts_with(b".") {
            return Ok(Self::Dir(PathBuf::from(text)));
        }
        Identity::parse(&text.to_string_lossy()).map(Self::Volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<String, String> {
        Target::parse(text.into()).map(|target| target.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn volume_and_path_are_divided_at_the_first_colon() {
        for (text, expected) in [
            ("a", "a:/"),
            ("a:", "a:/"),
            ("g/a:/", "g/a:/"),
            ("g/a:x/y", "g/a:/x/y"),
            ("g/a:/x//y/", "g/a:/x/y"),
            ("a:x:y", "a:/x:y"),
            ("a:x\ny", "a:/x\\ny"),
        ] {
            assert_eq!(target(text), Ok(expected.to_owned()), "{text}");
        }
        assert!(target("a b:x").unwrap_err().contains("`a b` is no volume name"));
        assert!(target("a:x/../y").unwrap_err().contains("`x/../y` has a part `..`"));
        let raw = Target::parse(OsString::from_vec(b"a:x\xff".to_vec())).unwrap();
        assert_eq!((raw.path.as_slice(), raw.to_string().as_str()), (&b"x\xff"[..], "a:/x\\xff"));
    }

    #[test]
    fn directory_and_volume_are_told_apart() {
        assert_eq!(Which::parse("./a".into()).unwrap(), Which::Dir("./a".into()));
        assert_eq!(Which::parse("/mnt".into()).unwrap(), Which::Dir("/mnt".into()));
        assert_eq!(Which::parse("g/a".into()).unwrap(), Which::Volume(Identity::parse("g/a").unwrap()));
        assert!(Which::parse("a//b".into()).is_err());
    }
}
