//! One rule: a pattern, matched alone, and its tier.

use super::tier::Tier;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How the only pattern that is not about names is written.
pub(super) const CACHEDIR_PATTERN: &str = "@cachedir-tag";

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) pattern: Pattern,
    pub(super) tier: Tier,
    pub(super) line: usize,
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) enum Pattern {
    Glob(Glob),
    /// A directory with a valid `CACHEDIR.TAG`.
    CachedirTag,
    /// `*`: of the last line only.
    Everything,
}

impl Rule {
    /// Whether something below this directory, at any depth, could match. Errs on the side of yes.
    pub(super) fn may_match_below(&self, dir: &[u8]) -> bool {
        match &self.pattern {
            Pattern::Glob(glob) => glob.may_match_below(dir),
            Pattern::CachedirTag | Pattern::Everything => true,
        }
    }
}

/// One gitignore pattern.
#[derive(Debug)]
pub(super) struct Glob {
    matcher: Gitignore,
    /// The directories on the way to what it matches, without the root; `None`: it may match in any.
    above: Option<Vec<Gitignore>>,
}

impl Glob {
    /// Checks and takes a pattern as written (blanks escaped).
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if pattern.starts_with('!') {
            return Err("`!` is not allowed in a policy; put the exception before the rule that it is an exception to".to_owned());
        }
        let body = pattern.strip_prefix('/').unwrap_or(pattern);
        let body = body.strip_suffix('/').unwrap_or(body);
        if body.is_empty() {
            return Err("it names nothing; the volume's root has the tier of the last line".to_owned());
        }
        if let Some(segment) = body.split('/').find(|segment| matches!(*segment, "" | "." | "..")) {
            return Err(format!("it can match no path because of the part `{segment}`; patterns begin at the volume's root"));
        }
        if (body.len() - body.trim_end_matches('\\').len()) % 2 == 1 {
            return Err("it ends in a `\\` that escapes nothing".to_owned());
        }
        let matcher = matcher(pattern)?;
        // Only a pattern with a slash before its end is bound to the volume's root.
        let bound = pattern.starts_with('/') || body.contains('/');
        let mut above = (bound && !body.contains("**") && !body.contains('\\')).then(Vec::new);
        if let Some(above) = &mut above {
            for (end, _) in body.match_indices('/') {
                above.push(self::matcher(&format!("/{}", body.get(..end).unwrap_or_default()))?);
            }
        }
        Ok(Self { matcher, above })
    }

    /// Whether the pattern matches exactly this path (not its parents).
    pub(super) fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        self.matcher.matched(Path::new(OsStr::from_bytes(path)), is_dir).is_ignore()
    }

    fn may_match_below(&self, dir: &[u8]) -> bool {
        let on_the_way = |matcher: &Gitignore| matcher.matched(Path::new(OsStr::from_bytes(dir)), true).is_ignore();
        dir.is_empty() || self.above.as_ref().is_none_or(|above| above.iter().any(on_the_way))
    }
}

fn matcher(pattern: &str) -> Result<Gitignore, String> {
    let mut builder = GitignoreBuilder::new("");
    // A `[` that is never closed is a slip more often than a name; `\[` says the name.
    builder.allow_unclosed_class(false);
    builder.add_line(None, pattern).map_err(|error| error.to_string())?;
    let matcher = builder.build().map_err(|error| error.to_string())?;
    if matcher.num_ignores() == 1 { Ok(matcher) } else { Err("it is no pattern".to_owned()) }
}
