//! PAX extended headers (POSIX.1-2001 `pax`): records of `LENGTH KEY=VALUE\n`.
//!
//! The length counts, not the line break: values such as file capabilities are bytes and may hold one. (The parser
//! of the `tar` crate splits at line breaks.)

use super::number;
use super::sparse::PaxMap;

/// What one extended header says of the next member. Keys that are not known are left out, as POSIX wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    /// Names and values, in the archive's order.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys of POSIX ACLs as text, which are not understood.
    pub(super) text_acls: Vec<Vec<u8>>,
    pub(super) sparse: PaxMap,
}

/// One sentence on what is wrong.
pub(super) type Problem = &'static str;

/// Splits a header into keys and values.
pub(super) fn records(mut data: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Problem>> {
    std::iter::from_fn(move || {
        // Some writers fill the rest of the block.
        if data.is_empty() || data[0] == 0 {
            return None;
        }
        let found = split(data);
        data = found.as_ref().map_or(&[][..], |(_, _, rest)| rest);
        Some(found.map(|(key, value, _)| (key, value)))
    })
}

/// The first record's key and value, and what follows.
type Split<'d> = (&'d [u8], &'d [u8], &'d [u8]);

fn split(data: &[u8]) -> Result<Split<'_>, Problem> {
    const BAD: Problem = "an extended header is no list of `LENGTH KEY=VALUE`";
    // A length has at most 20 digits.
    let space = data.iter().take(21).position(|b| *b == b' ').ok_or(BAD)?;
    let length = number::decimal(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or(BAD)?;
    let record = data.get(space + 1..length).ok_or(BAD)?;
    let (b'\n', record) = record.split_last().ok_or(BAD)? else { return Err(BAD) };
    let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
    Ok((&record[..equals], &record[equals + 1..], &data[length..]))
}

impl Records {
    /// Reads the extended header of one member.
    pub(super) fn parse(data: &[u8]) -> Result<Self, Problem> {
        let mut out = Self::default();
        for record in records(data) {
            let (key, value) = record?;
            out.take(key, value)?;
        }
        Ok(out)
    }

    /// Reads a global header on top of those before. What would give all members one name or one size is refused.
    pub(super) fn add_global(&mut self, data: &[u8]) -> Result<(), Problem> {
        for record in records(data) {
            match record? {
                (b"path" | b"linkpath" | b"size", _) => return Err("a global header names a path or a size"),
                (key, _) if key.starts_with(b"GNU.sparse.") || key.starts_with(b"SCHILY.") => {
                    return Err("a global header describes the content of a file");
                }
                (key, value) => self.take(key, value)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.add_xattr(decoded(name), value);
            return Ok(());
        }
        if key.starts_with(b"SCHILY.acl.") {
            self.text_acls.push(key.to_vec());
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value);
        }
        // A record without a value takes back what a global header says.
        let number = |what: Problem| match value {
            b"" => Ok(None),
            _ => number::decimal(value).map(Some).ok_or(what),
        };
        let text = |what: Problem| match value {
            b"" => Ok(None),
            _ if value.contains(&0) => Err(what),
            _ => Ok(Some(value.to_vec())),
        };
        match key {
            b"path" => self.path = text("`path` holds a zero byte")?,
            b"linkpath" => self.link = text("`linkpath` holds a zero byte")?,
            b"size" => self.size = number("`size` is no number")?,
            b"uid" => self.uid = number("`uid` is no number")?,
            b"gid" => self.gid = number("`gid` is no number")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(number::time(value).ok_or("`mtime` is no time")?),
            _ => {}
        }
        Ok(())
    }

    fn add_xattr(&mut self, name: Vec<u8>, value: &[u8]) {
        self.xattrs.retain(|(other, _)| *other != name);
        self.xattrs.push((name, value.to_vec()));
    }
}

/// The name of an attribute, in which GNU tar writes `=` as `%3D` and `%` as `%25`.
fn decoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match rest {
            [b'%', b'3', b'D', tail @ ..] => (b'=', tail),
            [b'%', b'2', b'5', tail @ ..] => (b'%', tail),
            _ => (first, tail),
        };
        out.push(byte);
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record with its length, which counts its own digits.
    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
    }

    #[test]
    fn values_may_hold_anything() {
        let data = [
            record(b"SCHILY.xattr.security.capability", b"\x01\n\0\n="),
            record(b"path", "gr\u{fc}n=\n".as_bytes()),
            record(b"SCHILY.xattr.user.a%3Db%25c%20", b""),
            record(b"mtime", b"1.5"),
            record(b"hdrcharset", b"BINARY"),
        ]
        .concat();
        let found = Records::parse(&data).unwrap();
        assert_eq!(found.path.as_deref(), Some("gr\u{fc}n=\n".as_bytes()));
        assert_eq!(found.mtime, Some((1, 500_000_000)));
        assert_eq!(
            found.xattrs,
            [
                (b"security.capability".to_vec(), b"\x01\n\0\n=".to_vec()),
                (b"user.a=b%c%20".to_vec(), Vec::new())
            ]
        );
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"99 a=b\n",
            b"6 abc\n",
            b"18446744073709551615 a=b\n",
            b"184467440737095516150 a=b\n",
            b"0 a=b\n",
            b"2 a=b\n",
            b" 6 a=b\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{bad:?}");
        }
        for (key, value) in
            [("size", "-1"), ("uid", "root"), ("mtime", "now"), ("path", "a\0b"), ("linkpath", "\0")]
        {
            assert!(Records::parse(&record(key.as_bytes(), value.as_bytes())).is_err(), "{key}");
        }
        assert_eq!(Records::parse(b"6 a=b\n\0\0\0"), Ok(Records::default()));
    }

    #[test]
    fn global_headers_hold_for_later_members_but_name_none() {
        let mut all = Records::default();
        all.add_global(&[record(b"comment", b"x"), record(b"uid", b"7")].concat()).unwrap();
        assert_eq!(all.uid, Some(7));
        for key in ["path", "linkpath", "size", "GNU.sparse.size", "SCHILY.xattr.user.x"] {
            assert!(all.clone().add_global(&record(key.as_bytes(), b"1")).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            pairs in prop::collection::vec(("[a-z.]{1,30}", prop::collection::vec(any::<u8>(), 0..200)), 0..8)
        ) {
            let data: Vec<u8> =
                pairs.iter().flat_map(|(key, value)| record(key.as_bytes(), value)).collect();
            let read: Result<Vec<_>, _> = records(&data).collect();
            let wrote: Vec<_> = pairs.iter().map(|(k, v)| (k.as_bytes(), v.as_slice())).collect();
            prop_assert_eq!(read, Ok(wrote));
        }

        #[test]
        fn no_bytes_cause_a_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Records::parse(&data);
        }
    }
}
