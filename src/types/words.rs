//! Names that somebody else chose, in messages for people.

/// A file's name or path for people: control characters and what is not UTF-8 are escaped, so that no name can move the cursor, and every
/// name is told from every other.
#[must_use]
pub fn show_name(name: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' { shown.extend(c.escape_default()) } else { shown.push(c) }
        }
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_so_that_each_can_be_told() {
        for (name, shown) in [(&b"plain \xc3\xa9"[..], "plain \u{e9}"), (b"a\nb", "a\\nb"), (b"x\xff", "x\\xff"), (b"x\\xff", "x\\\\xff")] {
            assert_eq!(show_name(name), shown);
        }
    }
}
