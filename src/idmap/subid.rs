//! `/etc/subuid` and `/etc/subgid`: which ids a user may map (`subuid(5)`, `subgid(5)`).

use std::path::Path;

use super::ids::clip;
use crate::error::{Error, ErrorKind, Result};

/// Where the user ranges are.
pub const SUBUID: &str = "/etc/subuid";
/// Where the group ranges are.
pub const SUBGID: &str = "/etc/subgid";

/// One line of the files: a user, by name or number, and the ids that are his to map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubidEntry {
    /// The user's name or number, as written.
    pub owner: String,
    /// The first id.
    pub first: u32,
    /// How many; never 0.
    pub count: u32,
}

/// A user as the files may name him.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubidUser {
    /// His number.
    pub uid: u32,
    /// His name, where he has one.
    pub name: Option<String>,
}

impl SubidUser {
    /// Root.
    pub fn root() -> Self {
        Self { uid: 0, name: Some("root".to_owned()) }
    }

    /// The user that the calling thread acts as. Other users' names than root's are looked up in `/etc/passwd`
    /// only.
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        if uid == 0 {
            return Self::root();
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self { uid, name: name_of(&passwd, uid) }
    }

    /// Whether an entry is his.
    pub fn owns(&self, entry: &SubidEntry) -> bool {
        self.name.as_deref() == Some(&*entry.owner) || entry.owner.parse() == Ok(self.uid)
    }
}

pub(super) fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Parses the text of one of the files: `name:first:count` lines. Empty lines and those that begin with `#` are
/// left out, and so are lines whose numbers are none, or name no ids.
///
/// # Errors
/// [`InvalidConfig`](ErrorKind::InvalidConfig) for a line with fewer than three fields.
///
/// ```
/// use stockade::idmap::subid::{self, SubidUser};
///
/// let entries = subid::parse("root:1000000:65536\nbob:100000:65536\n0:9000000:1000\n")?;
/// let of_root: Vec<u32> = entries.iter().filter(|e| SubidUser::root().owns(e)).map(|e| e.first).collect();
/// assert_eq!(of_root, [1_000_000, 9_000_000]);
/// # Ok::<(), stockade::Error>(())
/// ```
pub fn parse(text: &str) -> Result<Vec<SubidEntry>> {
    let mut out = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut fields = line.split(':').map(str::trim);
        let (Some(owner), Some(first), Some(count)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(Error::invalid("subordinate id line", "is not `name:first:count`").object(clip(line)));
        };
        let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else { continue };
        if count > 0 && first.checked_add(count).is_some() {
            out.push(SubidEntry { owner: owner.to_owned(), first, count });
        }
    }
    Ok(out)
}

/// Reads one of the files; one that does not exist has no entries.
///
/// # Errors
/// Whatever reading gives, or as [`parse`].
pub fn read(path: impl AsRef<Path>) -> Result<Vec<SubidEntry>> {
    let path = path.as_ref();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(|e| e.hint(format!("correct it in {}", path.display()))),
        Err(e) => match Error::io("read subordinate ids", e).path(path) {
            e if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            e => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text =
            "# a comment\n\nroot:100000:65536\nbob:x:5\nbob:5:0\n 1000 : 200000 : 10 \nx:4294967295:1\n";
        let entries = parse(text).unwrap();
        assert_eq!(
            entries,
            [
                SubidEntry { owner: "root".into(), first: 100_000, count: 65_536 },
                SubidEntry { owner: "1000".into(), first: 200_000, count: 10 },
            ]
        );
        assert!(parse("root:1").unwrap_err().to_string().contains("root:1"));
    }

    #[test]
    fn owners_by_name_or_number() {
        let bob =
            SubidUser { uid: 1000, name: name_of("root:x:0:0::/:\nbob:x:1000:1000::/:/bin/sh\n", 1000) };
        assert_eq!(bob.name.as_deref(), Some("bob"));
        let entry = |owner: &str| SubidEntry { owner: owner.into(), first: 1, count: 1 };
        assert!(bob.owns(&entry("bob")) && bob.owns(&entry("1000")) && !bob.owns(&entry("root")));
        assert_eq!(name_of("broken\n", 0), None);
    }

    #[test]
    fn a_missing_file_has_no_entries() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path().join("none")).unwrap(), []);
        let bad = dir.path().join("bad");
        std::fs::write(&bad, "x").unwrap();
        assert!(read(&bad).unwrap_err().to_string().contains("bad"));
    }
}
