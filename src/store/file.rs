//! JSON files with a schema version.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::store::SCHEMA;
use crate::sys::raw::retry;

/// No record comes near this size; a longer file is not one of ours.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Serialize)]
struct Out<'a, T> {
    schema: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct Header {
    schema: u32,
}

#[derive(Deserialize)]
struct In<T> {
    record: T,
}

/// A record as the text of its file.
pub(super) fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Out { schema: SCHEMA, record })
        .map_err(|e| Error::new(ErrorKind::InvalidConfig, "encode a record").with_source(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Makes a record of one version into one of the next. It is the `record` member alone, and of any of the kinds that
/// there are: a step looks for what it changes.
pub(super) type Upgrade = fn(&mut Value) -> Result<()>;

/// The step at place N makes a record of version N + 1 into one of version N + 2. So there is one less than
/// [`SCHEMA`] says: who raises that adds one here.
pub(super) const UPGRADES: [Upgrade; SCHEMA as usize - 1] = [
    // Version 2 has more limits. Those of version 1 have kept their names.
    |_| Ok(()),
];

/// The record in the text of a file. The caller adds the path to the error.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    decode_with(bytes, &UPGRADES)
}

/// The same, with the steps given: the newest version is one more than there are steps.
pub(super) fn decode_with<T: DeserializeOwned>(bytes: &[u8], steps: &[Upgrade]) -> Result<T> {
    let newest = steps.len() + 1;
    let version = version_of(bytes, newest)?;
    if version == newest {
        return Ok(serde_json::from_slice::<In<T>>(bytes).map_err(corrupt)?.record);
    }
    let mut record = serde_json::from_slice::<In<Value>>(bytes).map_err(corrupt)?.record;
    for step in steps.iter().skip(version - 1) {
        step(&mut record)?;
    }
    serde_json::from_value(record).map_err(corrupt)
}

/// Fails where the text is no record, or a newer one.
pub(super) fn check_schema(bytes: &[u8]) -> Result<()> {
    version_of(bytes, SCHEMA as usize).map(drop)
}

fn version_of(bytes: &[u8], newest: usize) -> Result<usize> {
    let Header { schema } = serde_json::from_slice(bytes).map_err(corrupt)?;
    let version = schema as usize;
    if version > newest {
        return Err(Error::new(ErrorKind::Unsupported, "read a record")
            .detail(format!("it has schema version {schema}, and this library knows up to {newest}"))
            .hint("use the version of Stockade that wrote it, or a newer one"));
    }
    if version == 0 {
        return Err(corrupt("schema version 0"));
    }
    Ok(version)
}

fn corrupt(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let why = why.into();
    Error::new(ErrorKind::Corrupt, "read a record").detail("is not a record of this library").with_source(why)
}

/// Makes a file that is not there yet, with one write where the kernel takes it whole. On failure the file is
/// removed.
pub(super) fn write_new(dir: BorrowedFd<'_>, path: &str, bytes: &[u8], sync: bool) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = retry(|| rustix::fs::openat(dir, path, flags, Mode::from_raw_mode(0o600)))?;
    let written = write_all(fd.as_fd(), bytes)
        .and_then(|()| if sync { retry(|| rustix::fs::fsync(&fd)) } else { Ok(()) });
    if written.is_err() {
        // The write's error is the one to report.
        let _ = rustix::fs::unlinkat(dir, path, rustix::fs::AtFlags::empty());
    }
    written
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match retry(|| rustix::io::write(fd, bytes))? {
            0 => return Err(Errno::IO),
            n => bytes = &bytes[n..],
        }
    }
    Ok(())
}

/// Reads a whole regular file; `None` where there is none.
pub(super) fn read(dir: BorrowedFd<'_>, path: &str) -> Result<Option<Vec<u8>>> {
    let step = "read a record";
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match retry(|| rustix::fs::openat(dir, path, flags, Mode::empty())) {
        Err(Errno::NOENT) => return Ok(None),
        Err(e @ (Errno::LOOP | Errno::NOTDIR)) => {
            return Err(Error::sys(step, e).with_kind(ErrorKind::Corrupt));
        }
        other => other.map_err(|e| Error::sys(step, e))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::sys(step, e))?;
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(corrupt("not a regular file"));
    }
    if size > MAX_BYTES {
        return Err(corrupt("larger than 16 MiB"));
    }
    let mut bytes = vec![0; size as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match retry(|| rustix::io::read(&fd, &mut bytes[filled..])).map_err(|e| Error::sys(step, e))? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}
