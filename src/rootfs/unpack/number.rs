//! The numbers of a tar header.

/// The number in a header's field: octal text, or base 256 where the first bit is set (GNU). A field without digits
/// is 0. `None` where it is no number or does not fit.
pub(super) fn field(bytes: &[u8]) -> Option<i64> {
    let (&first, rest) = bytes.split_first()?;
    if first & 0x80 != 0 {
        // Seven bits with a sign, then whole bytes. The widest field has 12 bytes, which fit.
        let start = i128::from(first & 0x3f) - i128::from(first & 0x40);
        let value = rest.iter().try_fold(start, |n, b| n.checked_mul(256)?.checked_add(i128::from(*b)))?;
        return i64::try_from(value).ok();
    }
    let text = bytes.trim_ascii_start();
    let end = text.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(text.len());
    text[..end].iter().try_fold(0_i64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

/// A decimal number of a PAX record: digits alone.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |n, b| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// A time of a PAX record, such as `-1.25`: seconds since 1970 and nanoseconds after them. Digits past the ninth
/// are cut off.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    let point = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0_u32, |n, b| n * 10 + u32::from(b - b'0'));
    match (negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_octal_or_base_256() {
        assert_eq!(field(b"0000644\0"), Some(0o644));
        assert_eq!(field(b"    644 "), Some(0o644));
        assert_eq!(field(b"7777777\0"), Some(0o7777777));
        assert_eq!(field(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(field(b"        "), Some(0));
        assert_eq!(field(b"12 garbage"), Some(0o12));
        assert_eq!(field(b"\x80\0\0\0\0\0\x01\x02"), Some(258));
        assert_eq!(field(&[0xff; 12]), Some(-1));
        assert_eq!(field(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        for bad in [&b"8"[..], b"-1", b"0x10", b"6\xff4", b"", b"\x80\x01\0\0\0\0\0\0\0\0\0\0"] {
            assert_eq!(field(bad), None, "{bad:?}");
        }
        assert_eq!(field(&[b'7'; 22]), None);
    }

    #[test]
    fn decimals_are_digits_alone() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"-1", b"+1", b"1 ", b"18446744073709551616"] {
            assert_eq!(decimal(bad), None);
        }
    }

    #[test]
    fn times_may_be_negative_and_finer_than_nanoseconds() {
        assert_eq!(time(b"1700000000.123456789"), Some((1_700_000_000, 123_456_789)));
        assert_eq!(time(b"5"), Some((5, 0)));
        assert_eq!(time(b"5."), Some((5, 0)));
        assert_eq!(time(b"5.1234567899"), Some((5, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        for bad in [&b""[..], b"-", b".5", b"1.x", b"1.2.3", b"99999999999999999999"] {
            assert_eq!(time(bad), None);
        }
    }
}
