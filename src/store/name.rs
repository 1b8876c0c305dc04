//! Which object names a store takes: the same for every kind of store, so that what works on one works on all.

use super::StoreError;

/// Longest name relative to the store's prefix, in bytes: S3 allows 1,024 for prefix and name together.
pub const OBJECT_NAME_MAX: usize = 900;

/// Largest object that is put or read whole or in one range: twice the largest that the format makes, so that no answer of a store
/// makes us allocate more.
pub const BODY_BYTES_MAX: u64 = 64 << 20;

/// Refuses a body beyond [`BODY_BYTES_MAX`].
pub(super) fn check_length(verb: &'static str, name: &str, length: u64) -> Result<(), StoreError> {
    if length <= BODY_BYTES_MAX {
        return Ok(());
    }
    let why = format!("{length} bytes are more than {BODY_BYTES_MAX}");
    Err(StoreError::Unsupported { verb, name: name.to_owned(), why })
}

/// Refuses what could leave the store's prefix or directory, collide with a store's own files, or mean two things.
pub(super) fn check(verb: &'static str, name: &str) -> Result<(), StoreError> {
    match fault_of(name, false) {
        None => Ok(()),
        Some(why) => Err(StoreError::Unsupported { verb, name: name.escape_debug().to_string(), why: why.to_owned() }),
    }
}

/// The same for a listing's prefix, which may be empty and may end anywhere, also with `/`.
pub(super) fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    match fault_of(prefix, true) {
        None => Ok(()),
        Some(why) => Err(StoreError::Unsupported { verb: "list", name: prefix.escape_debug().to_string(), why: why.to_owned() }),
    }
}

fn fault_of(name: &str, prefix: bool) -> Option<&'static str> {
    if name.len() > OBJECT_NAME_MAX {
        return Some("the name is longer than 900 bytes");
    }
    if prefix && name.is_empty() {
        return None;
    }
    let segments = if prefix { name.strip_suffix('/').unwrap_or(name) } else { name };
    for segment in segments.split('/') {
        if segment.is_empty() {
            return Some("the name is empty, or begins or ends with `/`, or has `//` in it");
        }
        if segment.len() > 255 {
            return Some("a part of the name is longer than 255 bytes");
        }
        // Also keeps `.` and `..` out, and leaves names with a dot for a store's own temporary files.
        if segment.starts_with('.') {
            return Some("a part of the name begins with a dot");
        }
        // What needs no escaping in any store's protocol: no key is ever spelled in two ways.
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~=@+".contains(&b)) {
            return Some("a character other than letters, digits and `-_.~=@+/`");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_store() {
        for good in ["holdfast-store", "names/a/b/~00000001", "volumes/0b1c/packs/0000000001-ff", "a..b", "x~2"] {
            assert!(check("get", good).is_ok(), "{good}");
        }
        let long = "a/".repeat(450) + "a";
        let segment = "a".repeat(256);
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", ".tmp", "a/.b", "a b", "a%2e", "a\0b", "ä", &long, &segment] {
            assert!(check("get", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_may_end_anywhere() {
        for good in ["", "a", "a/", "names/a/~", "volumes/0b1c/packs/000"] {
            assert!(check_prefix(good).is_ok(), "{good}");
        }
        for bad in ["/", "/a", "a//", "../", "a/.."] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}
