//! `raw.idmap`: single ids and ranges that a user wants mapped differently.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{IdKind, clip, parse_id};
use super::range::IdRange;
use crate::error::{Error, Result};

/// What an entry of `raw.idmap` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RawKind {
    /// Users.
    Uid,
    /// Groups.
    Gid,
    /// Users and groups.
    Both,
}

impl RawKind {
    const fn covers(self, kind: IdKind) -> bool {
        matches!((self, kind), (Self::Both, _) | (Self::Uid, IdKind::Uid) | (Self::Gid, IdKind::Gid))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Both => "both",
        }
    }
}

/// One line of `raw.idmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawEntry {
    /// Users, groups or both.
    pub kind: RawKind,
    /// Which ids.
    pub range: IdRange,
}

impl FromStr for RawEntry {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid("raw.idmap line", why).object(clip(line));
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [kind, host, inner] = fields[..] else {
            return Err(bad("is not `both|uid|gid HOST INNER`, each an id or FIRST-LAST"));
        };
        let kind = match kind {
            "uid" => RawKind::Uid,
            "gid" => RawKind::Gid,
            "both" => RawKind::Both,
            _ => return Err(bad("does not begin with `both`, `uid` or `gid`")),
        };
        let (host, inner) = (parse_span(host)?, parse_span(inner)?);
        if host.1 != inner.1 {
            return Err(bad("has a different number of ids inside and outside"));
        }
        Ok(Self { kind, range: IdRange::new(inner.0, host.0, host.1) })
    }
}

impl fmt::Display for RawEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IdRange { inner, host, count } = self.range;
        f.write_str(self.kind.name())?;
        for first in [host, inner] {
            match count {
                0 | 1 => write!(f, " {first}")?,
                n => write!(f, " {first}-{}", u64::from(first) + u64::from(n) - 1)?,
            }
        }
        Ok(())
    }
}

/// The first id and the number of ids of `N` or `FIRST-LAST`.
fn parse_span(text: &str) -> Result<(u32, u32)> {
    let Some((first, last)) = text.split_once('-') else {
        return Ok((parse_id(text, "raw.idmap id")?, 1));
    };
    let (first, last) = (parse_id(first, "raw.idmap id")?, parse_id(last, "raw.idmap id")?);
    match last.checked_sub(first) {
        // `last` is at most 4294967294, so one more fits.
        Some(n) => Ok((first, n + 1)),
        None => Err(Error::invalid("raw.idmap range", "ends before it begins").object(clip(text))),
    }
}

/// The entries of `raw.idmap`, as LXD and Incus write them: one a line, the kind (`both`, `uid` or `gid`), the
/// ids of the host, the ids inside. Ids are `N` or `FIRST-LAST`, the last included.
///
/// Put into a map with [`IdMap::with_raw`](super::IdMap::with_raw).
///
/// ```
/// use stockade::idmap::RawIdmap;
///
/// let raw: RawIdmap = "both 100-200 300-400\nuid 1000 1000".parse()?;
/// assert_eq!(raw.entries().len(), 2);
/// assert_eq!(raw.to_string(), "both 100-200 300-400\nuid 1000 1000\n");
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RawIdmap(Vec<RawEntry>);

impl RawIdmap {
    /// These entries.
    pub fn new(entries: Vec<RawEntry>) -> Self {
        Self(entries)
    }

    /// The entries in the order written.
    pub fn entries(&self) -> &[RawEntry] {
        &self.0
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges for users or for groups.
    pub fn ranges(&self, kind: IdKind) -> impl Iterator<Item = IdRange> + '_ {
        self.0.iter().filter(move |e| e.kind.covers(kind)).map(|e| e.range)
    }

    /// Whether some entry lets root of the host in, which makes the container a privileged one in effect.
    pub fn maps_host_root(&self) -> bool {
        self.0.iter().any(|e| e.range.to_inner(0).is_some())
    }
}

impl FromStr for RawIdmap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.lines().filter(|l| !l.trim().is_empty()).map(str::parse).collect::<Result<_>>().map(Self)
    }
}

impl fmt::Display for RawIdmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|e| writeln!(f, "{e}"))
    }
}

impl TryFrom<String> for RawIdmap {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RawIdmap> for String {
    fn from(raw: RawIdmap) -> Self {
        raw.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_incus_takes() {
        let raw: RawIdmap = "both 1000 1000\n\n  uid 50-60 500-510 \ngid 7 8".parse().unwrap();
        assert_eq!(
            raw.ranges(IdKind::Uid).collect::<Vec<_>>(),
            [IdRange::new(1000, 1000, 1), IdRange::new(500, 50, 11)]
        );
        assert_eq!(
            raw.ranges(IdKind::Gid).collect::<Vec<_>>(),
            [IdRange::new(1000, 1000, 1), IdRange::new(8, 7, 1)]
        );
        assert!(!raw.maps_host_root());
        assert!("both 0-5 10-15".parse::<RawIdmap>().unwrap().maps_host_root());
    }

    #[test]
    fn what_nobody_should_take() {
        for bad in [
            "uid 1",
            "uid 1 2 3",
            "user 1 1",
            "uid 1-2 5",
            "uid 2-1 5-4",
            "uid 1-2-3 1-3",
            "uid -1 1",
            "uid a b",
        ] {
            assert!(bad.parse::<RawIdmap>().is_err(), "{bad}");
        }
    }

    #[test]
    fn is_text_in_json() {
        let raw: RawIdmap = "gid 7 8".parse().unwrap();
        let json = serde_json::to_string(&raw).unwrap();
        assert_eq!(json, r#""gid 7 8\n""#);
        assert_eq!(serde_json::from_str::<RawIdmap>(&json).unwrap(), raw);
    }
}
