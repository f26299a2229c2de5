//! Values of options.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A directory or file of the host to be shown in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    /// Whether owners are shown through the container's id map.
    pub(crate) idmapped: bool,
}

/// Reads `SRC:DST[:ro][:noidmap]`.
pub(crate) fn volume(text: &OsStr) -> Result<Volume, String> {
    let mut parts = text.as_bytes().split(|b| *b == b':');
    let mut path = |what: &str| match parts.next() {
        Some(part) if !part.is_empty() => Ok(PathBuf::from(OsString::from_vec(part.to_vec()))),
        _ => Err(format!("has no {what}: write SRC:DST, SRC:DST:ro")),
    };
    let (source, target) = (path("source")?, path("destination")?);
    let mut volume = Volume { source, target, read_only: false, idmapped: true };
    for option in parts {
        match option {
            b"ro" => volume.read_only = true,
            b"rw" => volume.read_only = false,
            b"noidmap" => volume.idmapped = false,
            other => {
                let other = String::from_utf8_lossy(other);
                return Err(format!("has the unknown option `{other}`: there are ro, rw and noidmap"));
            }
        }
    }
    Ok(volume)
}

/// Reads a number of bytes: `1048576`, `1024K`, `1M`, `1MiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("is no size: write bytes, or a number with K, M, G or T".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "is no size: it has no number".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "is more than 16 EiB".to_owned())
}

/// Reads `NAME=VALUE`.
pub(crate) fn variable(text: &OsStr) -> Result<(OsString, OsString), String> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|b| *b == b'=') {
        // Without `=` it may be the value, which is not to be shown.
        None => Err("is not NAME=VALUE".to_owned()),
        Some(0) => Err("has no name".to_owned()),
        Some(at) => {
            Ok((OsString::from_vec(bytes[..at].to_vec()), OsString::from_vec(bytes[at + 1..].to_vec())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let v = |text: &str| volume(OsStr::new(text));
        let made = v("/a:/b").unwrap();
        assert_eq!((made.source.as_path(), made.target.as_path()), ("/a".as_ref(), "/b".as_ref()));
        assert!(!made.read_only && made.idmapped);
        let made = v("a:/b:noidmap:ro").unwrap();
        assert!(made.read_only && !made.idmapped);
        for bad in ["", ":", "/a", "/a:", ":/b", "/a:/b:", "/a:/b:rx"] {
            assert!(v(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("7", 7), ("7b", 7), ("2k", 2048), ("3M", 3 << 20), ("1GiB", 1 << 30), ("1t", 1 << 40)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "-1", "1.5G", "1x", "1 M", "99999999999999999999", "16777216T", "+1"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables() {
        let v = |text: &str| variable(OsStr::new(text));
        assert_eq!(v("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(v("A="), Ok(("A".into(), "".into())));
        for bad in ["", "A", "=b"] {
            assert!(v(bad).is_err(), "{bad}");
        }
    }
}
