//! Paths of members.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::archive::{bad, shown};
use crate::error::Result;

/// The parts of a path in the archive. A leading `/` means the target, as in GNU tar; `..` is refused.
pub(super) fn split(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut names = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(bad("a path leads upwards (`..`)")),
            name if name.contains(&0) => return Err(bad("a path holds a zero byte")),
            name => names.push(name),
        }
    }
    Ok(names)
}

/// The path for a message.
pub(super) fn joined(names: &[&[u8]]) -> String {
    shown(&names.join(&b'/'))
}

/// The path for the caller.
pub(super) fn path_buf(names: &[&[u8]]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&names.join(&b'/')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_split_below_the_target() {
        let split = |path: &[u8]| split(path).map(|names| names.join(&b'|'));
        assert_eq!(split(b"./usr//bin/").unwrap(), b"usr|bin");
        assert_eq!(split(b"/etc/passwd").unwrap(), b"etc|passwd");
        assert_eq!(split(b"./").unwrap(), b"");
        assert_eq!(split(b"a/.../..b").unwrap(), b"a|...|..b");
        for bad in [&b".."[..], b"a/../b", b"/..", b"a/..", b"a\0b"] {
            assert!(split(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leads_out(path in prop::collection::vec(prop::sample::select(b"./ab\0\xff".to_vec()), 0..40)) {
            if let Ok(names) = split(&path) {
                for name in names {
                    prop_assert!(!name.is_empty() && name != b"." && name != b"..");
                    prop_assert!(!name.contains(&b'/') && !name.contains(&0));
                }
            }
        }
    }
}
