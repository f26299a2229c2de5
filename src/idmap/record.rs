//! The durable list of ranges, one JSON file in the state directory.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::claims::{RANGE_SIZE, Slot};
use super::range::{overlap, span};
use super::session::StateDir;
use crate::error::{Error, ErrorKind, Result};
use crate::sys;

const FILE: &str = "idmap.json";
const NEW_FILE: &str = "idmap.json.new";

/// The version that this program writes; it reads this one only.
const SCHEMA: u32 = 1;

/// Far above what the whole id space can hold in ranges.
const MAX_BYTES: usize = 64 << 20;

/// One range in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) owner: String,
    uid: u32,
    gid: u32,
}

impl Entry {
    pub(super) fn new(owner: &str, slot: Slot) -> Self {
        Self { owner: owner.to_owned(), uid: slot.uid, gid: slot.gid }
    }

    pub(super) fn slot(&self) -> Slot {
        Slot { uid: self.uid, gid: self.gid }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    schema: u32,
    ranges: Vec<Entry>,
}

/// Only the version, whatever else a file holds.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// Reads the list; a file that is not there yet holds none.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) for a file that cannot be understood, [`Unsupported`](ErrorKind::Unsupported)
/// for one of a newer version. Neither is ever overwritten, since writing begins with reading.
pub(super) fn read(state: &StateDir) -> Result<Vec<Entry>> {
    let bytes = match sys::fd::read_at(state.fd.as_fd(), FILE, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(e) => return Err(Error::sys("read id ranges", e).object(state.name(FILE))),
    };
    parse(&bytes, &state.name(FILE))
}

/// The list in the text of the file `name`.
pub(super) fn parse(bytes: &[u8], name: &str) -> Result<Vec<Entry>> {
    let corrupt = || {
        Error::new(ErrorKind::Corrupt, "read id ranges")
            .object(name)
            .hint("restore the file from a backup, or remove it when no instance uses a range of it")
    };
    let version: Version = serde_json::from_slice(bytes).map_err(|e| corrupt().with_source(e))?;
    if version.schema > SCHEMA {
        return Err(Error::new(ErrorKind::Unsupported, "read id ranges")
            .object(name)
            .detail(format!("has version {}, this program knows {SCHEMA}", version.schema))
            .hint("use the newer program that wrote it"));
    }
    let record: Record = serde_json::from_slice(bytes).map_err(|e| corrupt().with_source(e))?;
    let mut owners = HashSet::new();
    for entry in &record.ranges {
        entry.slot().map().map_err(|e| corrupt().with_source(e))?;
        if !owners.insert(entry.owner.as_str()) {
            return Err(corrupt().detail(format!("`{}` is in it twice", entry.owner)));
        }
    }
    let firsts: [fn(&Entry) -> u32; 2] = [|e| e.uid, |e| e.gid];
    for first in firsts {
        let mut sorted: Vec<u32> = record.ranges.iter().map(first).collect();
        sorted.sort_unstable();
        if let Some(two) =
            sorted.windows(2).find(|w| overlap(&span(w[0], RANGE_SIZE), &span(w[1], RANGE_SIZE)))
        {
            return Err(corrupt().detail(format!("the ranges from {} and from {} overlap", two[0], two[1])));
        }
    }
    Ok(record.ranges)
}

/// Removes a new list that a crash kept from taking its place. The caller holds the lock.
pub(super) fn remove_unfinished(state: &StateDir) -> Result<()> {
    match rustix::fs::unlinkat(&state.fd, NEW_FILE, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::sys("remove an unfinished list of id ranges", e).object(state.name(NEW_FILE))),
    }
}

/// Replaces the list, so that either the old or the new one is there after a crash. The caller holds the lock.
pub(super) fn write(state: &StateDir, ranges: Vec<Entry>) -> Result<()> {
    let written = write_and_rename(state, ranges);
    if written.is_err() {
        // The first error is the one to report. After the rename there is none.
        let _ = remove_unfinished(state);
    }
    written
}

fn write_and_rename(state: &StateDir, ranges: Vec<Entry>) -> Result<()> {
    let fail = |step: &'static str| {
        move |errno| {
            let e = Error::sys(step, errno).object(state.name(FILE));
            if e.kind() == ErrorKind::Exhausted { e.hint("free space on its file system") } else { e }
        }
    };
    let mut text = serde_json::to_vec(&Record { schema: SCHEMA, ranges })
        .map_err(|e| Error::new(ErrorKind::Kernel, "write id ranges").with_source(e))?;
    text.push(b'\n');
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = sys::raw::retry(|| rustix::fs::openat(&state.fd, NEW_FILE, flags, Mode::RUSR | Mode::WUSR))
        .map_err(fail("create id ranges"))?;
    let mut left = &text[..];
    while !left.is_empty() {
        let n = sys::raw::retry(|| rustix::io::write(&file, left)).map_err(fail("write id ranges"))?;
        left = &left[n..];
    }
    rustix::fs::fsync(&file).map_err(fail("flush id ranges"))?;
    rustix::fs::renameat(&state.fd, NEW_FILE, &state.fd, FILE).map_err(fail("replace id ranges"))?;
    rustix::fs::fsync(&state.fd).map_err(fail("flush state directory"))
}
