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

/// Which of the known words a slip of the keyboard meant: the nearest, whatever its case and with `_` for `-`, unless more than half of its
/// letters are others.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('_', "-");
    let word = plain(word);
    let near = known.into_iter().map(|known| (strsim::levenshtein(&word, &plain(known)), known)).min();
    near.filter(|(distance, known)| *distance <= known.chars().count() / 2).map(|(_, known)| known)
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

    #[test]
    fn a_slip_is_told_from_another_word() {
        let of = |word| nearest(word, ["cache-size", "cache", "onDelete"]);
        assert_eq!(of("cache_size"), Some("cache-size"));
        assert_eq!(of("cahce"), Some("cache"));
        assert_eq!(of("ondelete"), Some("onDelete"));
        assert_eq!(of("colour"), None);
        assert_eq!(nearest("x", []), None);
    }
}
