//! The formats of the kernel's statistics files, read from bytes without allocation.
//!
//! Nothing here fails: a line that cannot be understood is left out, as the kernel may add formats later.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cgroup::block::DeviceNumber;
use crate::cgroup::percent::Percent;

/// What is left of a text that is read once, from its beginning.
///
/// The kernel writes its keys in one order. So whoever asks for them in that order, each in turn, compares each about
/// once and knows a value when its key is known.
#[derive(Clone, Copy)]
pub(super) struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Passes `start` where it stands here.
    #[inline]
    pub(super) fn skip(&mut self, start: &str) -> bool {
        self.0.strip_prefix(start.as_bytes()).inspect(|rest| self.0 = rest).is_some()
    }

    /// Passes a value and the white space that ends it, where one stands here.
    #[inline]
    pub(super) fn value<T: Value>(&mut self) -> Option<T> {
        let (value, rest) = T::read(self.0)?;
        self.0 = match rest {
            [] => rest,
            [end, rest @ ..] if end.is_ascii_whitespace() => rest,
            _ => return None,
        };
        Some(value)
    }

    /// Passes `key`, which ends with what is between it and its value, and the value, where both stand here.
    #[inline]
    pub(super) fn take<T: Value>(&mut self, key: &str, slot: &mut T) {
        let mut text = *self;
        if text.skip(key)
            && let Some(value) = text.value()
        {
            *slot = value;
            *self = text;
        }
    }

    /// Calls `take`, which tries all keys that there are, until none of them stands here.
    #[inline]
    pub(super) fn take_all(&mut self, mut take: impl FnMut(&mut Self)) {
        let mut before = usize::MAX;
        while !self.is_empty() && self.0.len() < before {
            before = self.0.len();
            take(self);
        }
    }

    fn pass(&mut self, ends: impl Fn(&u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(ends).unwrap_or(self.0.len());
        let (passed, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        passed
    }

    /// Passes a line. Gives key and number where it is `KEY NUMBER`.
    pub(super) fn line(&mut self) -> Option<(&'a [u8], u64)> {
        let (key, value) = cut(self.pass(|b| *b == b'\n'), b' ')?;
        Some((key, single(value)?))
    }

    /// Passes a word, which is empty where there is white space.
    pub(super) fn word(&mut self) -> &'a [u8] {
        self.pass(u8::is_ascii_whitespace)
    }

    /// Passes `KEY=VALUE` where it stands here.
    pub(super) fn pair(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let mut text = *self;
        let pair = cut(text.word(), b'=')?;
        *self = text;
        Some(pair)
    }
}

/// What can be the value of a key.
pub(super) trait Value: Sized {
    /// The value that `text` begins with, and the rest.
    fn read(text: &[u8]) -> Option<(Self, &[u8])>;
}

impl Value for u64 {
    #[inline]
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        digits(text)
    }
}

/// The kernel gives times in microseconds (`*_usec`).
impl Value for Duration {
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        digits(text).map(|(n, rest)| (Self::from_micros(n), rest))
    }
}

impl Value for bool {
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        digits(text).map(|(n, rest)| (n != 0, rest))
    }
}

impl Value for Percent {
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        Self::read(text)
    }
}

impl Value for DeviceNumber {
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        Self::read(text)
    }
}

impl<T: Value> Value for Option<T> {
    #[inline]
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        T::read(text).map(|(value, rest)| (Some(value), rest))
    }
}

/// The decimal number that `text` begins with, and the rest; `None` for none, and for what 64 bits cannot hold.
pub(in crate::cgroup) fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let digit = |b: &u8| Some(u64::from(b.wrapping_sub(b'0'))).filter(|d| *d <= 9);
    let (first, mut rest) = text.split_first()?;
    let mut n = digit(first)?;
    while let Some((b, after)) = rest.split_first()
        && let Some(d) = digit(b)
    {
        n = n.checked_mul(10)?.checked_add(d)?;
        rest = after;
    }
    Some((n, rest))
}

/// A decimal number, nothing before or after it.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    digits(text).filter(|(_, rest)| rest.is_empty()).map(|(n, _)| n)
}

/// The number that is all of a file; `None` for `max`.
pub(super) fn single(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii())
}

/// Text before and after the first `at`.
fn cut(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = text.iter().position(|b| *b == at)?;
    Some((&text[..i], &text[i + 1..]))
}

/// The lines `KEY NUMBER` of a file.
pub(super) fn map(text: &[u8]) -> BTreeMap<String, u64> {
    let mut text = Text::new(text);
    let mut out = BTreeMap::new();
    while !text.is_empty() {
        out.extend(text.line().map(|(key, n)| (name(key), n)));
    }
    out
}

/// A name for a map, whatever its bytes are.
pub(super) fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A struct for a file of `KEY NUMBER` lines, with what reads it. The fields stand in the order in which the kernel
/// writes its keys; keys in another order are found all the same.
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
                use $crate::cgroup::stats::parse::{self, Text};
                let mut text = Text::new(text);
                while !text.is_empty() {
                    text.take_all(|text| {
                        $( text.take(concat!($key, " "), &mut self.$field); )*
                    });
                    self.other.extend(text.line().map(|(key, n)| (parse::name(key), n)));
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
            a: u64 = "a",
            /// .
            time: Duration = "time_usec",
            /// .
            maybe: Option<u64> = "maybe",
            /// .
            on: bool = "on",
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
