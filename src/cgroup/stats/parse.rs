//! The formats of the kernel's statistics files, read from bytes without allocation.
//!
//! Nothing here fails: a line that cannot be understood is left out, as the kernel may add formats later.

use std::time::Duration;

/// A field that takes the number of a key.
pub(super) trait Slot {
    fn set(&mut self, n: u64);
}

impl Slot for u64 {
    fn set(&mut self, n: u64) {
        *self = n;
    }
}

/// The kernel gives times in microseconds (`*_usec`).
impl Slot for Duration {
    fn set(&mut self, n: u64) {
        *self = Self::from_micros(n);
    }
}

impl Slot for bool {
    fn set(&mut self, n: u64) {
        *self = n != 0;
    }
}

impl<T: Slot + Default> Slot for Option<T> {
    fn set(&mut self, n: u64) {
        self.get_or_insert_default().set(n);
    }
}

/// A decimal number, nothing before or after it; `None` for `max`, rubbish, and what 64 bits cannot hold.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digit = |n: u64, b: &u8| {
        let d = u64::from(b.wrapping_sub(b'0'));
        if d > 9 { None } else { n.checked_mul(10)?.checked_add(d) }
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// The number that is all of a file.
pub(super) fn single(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}

/// Text before and after the first `at`.
pub(super) fn cut(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = text.iter().position(|b| *b == at)?;
    Some((&text[..i], &text[i + 1..]))
}

/// The lines `KEY NUMBER` of a file.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let (key, value) = cut(line, b' ')?;
        Some((key, single(value)?))
    })
}

/// The words of a line or of a whole file.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty())
}

/// A name for a map, whatever its bytes are.
pub(super) fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A struct for a file of `KEY NUMBER` lines, with what reads it.
///
/// The kernel prints its keys in one order, so the fields stand in that order and each key is compared about once.
/// Keys in another order are found all the same, by another pass over the fields.
macro_rules! flat_keyed {
    (
        $(#[$about:meta])*
        $vis:vis struct $Name:ident {
            $( $(#[$doc:meta])* $field:ident: $ty:ty = $key:literal, )*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[non_exhaustive]
        $vis struct $Name {
            $( $(#[$doc])* $vis $field: $ty, )*
            /// What this kernel counts besides, by the kernel's name, in its unit.
            #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
            $vis other: std::collections::BTreeMap<String, u64>,
        }

        impl $Name {
            pub(in crate::cgroup) fn parse(&mut self, text: &[u8]) {
                use $crate::cgroup::stats::parse::{self, Slot};
                let mut pairs = parse::pairs(text);
                let mut next = pairs.next();
                while let Some((unread, value)) = next {
                    $(
                        if let Some((key, n)) = next
                            && key == $key
                        {
                            self.$field.set(n);
                            next = pairs.next();
                        }
                    )*
                    // No field took it: the pass over all of them changed nothing.
                    if next.is_some_and(|(key, _)| key.as_ptr() == unread.as_ptr()) {
                        self.other.insert(parse::name(unread), value);
                        next = pairs.next();
                    }
                }
            }
        }
    };
}
pub(super) use flat_keyed;

#[cfg(test)]
mod tests {
    use super::*;

    flat_keyed! {
        /// For the tests.
        struct Sample {
            /// .
            a: u64 = b"a",
            /// .
            time: Duration = b"time_usec",
            /// .
            maybe: Option<u64> = b"maybe",
            /// .
            on: bool = b"on",
        }
    }

    fn sample(text: &str) -> Sample {
        let mut s = Sample::default();
        s.parse(text.as_bytes());
        s
    }

    #[test]
    fn numbers_are_whole_and_bounded() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["", "max", "-1", "+1", "1 ", "1.0", "18446744073709551616", "99999999999999999999999"] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(single(b" 12\n"), Some(12));
    }

    #[test]
    fn keys_are_found_in_any_order_and_unknown_ones_kept() {
        let expected = Sample {
            a: 1,
            time: Duration::from_micros(2),
            maybe: Some(3),
            on: true,
            other: [("new".to_owned(), 4), ("newer".to_owned(), 5)].into(),
        };
        for text in [
            "a 1\ntime_usec 2\nmaybe 3\non 1\nnew 4\nnewer 5\n",
            "new 4\na 1\ntime_usec 2\nnewer 5\nmaybe 3\non 1",
            "newer 5\non 1\nmaybe 3\nnew 4\ntime_usec 2\na 1\n",
            "x\n\na 1\na\n a 9\nb max\ntime_usec 2\nmaybe 3\non 1\nnewer 5\nnew 4\n",
        ] {
            let mut got = sample(text);
            got.other.remove("");
            assert_eq!(got, expected, "{text}");
        }
        assert_eq!(sample("a 7\n").maybe, None);
        assert_eq!(sample("aa 7\n").other["aa"], 7);
        assert_eq!(sample("a 7\na 8\n").a, 8);
        assert_eq!(sample("new 1\nnew 2\n").other["new"], 2);
    }
}
