//! Writing the content of files.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::archive::{Archive, bad};
use super::sparse::Map;
use crate::error::{Error, Result};
use crate::sys::raw::retry;

/// Written by one call at most.
const PIECE: u64 = 1 << 20;

/// Writes the content of a member.
pub(super) fn write(file: &OwnedFd, archive: &mut Archive<'_, '_>) -> Result<()> {
    loop {
        let found = archive.content(PIECE)?;
        if found.is_empty() {
            return Ok(());
        }
        let count = found.len();
        let mut rest = found;
        while !rest.is_empty() {
            let n = retry(|| rustix::io::write(file, rest)).map_err(writing)?;
            rest = &rest[n..];
        }
        archive.input.watch.wrote(count);
    }
}

/// Writes the content of a member where it belongs, and leaves holes between.
pub(super) fn write_with_holes(file: &OwnedFd, map: &Map, archive: &mut Archive<'_, '_>) -> Result<()> {
    for extent in &map.extents {
        let (mut offset, end) = (extent.offset, extent.offset + extent.len);
        while offset < end {
            let found = archive.content(PIECE.min(end - offset))?;
            if found.is_empty() {
                return Err(bad("a file with holes ends before its last extent"));
            }
            let count = found.len();
            let mut rest = found;
            while !rest.is_empty() {
                let n = retry(|| rustix::io::pwrite(file, rest, offset)).map_err(writing)?;
                rest = &rest[n..];
                offset += n as u64;
            }
            archive.input.watch.wrote(count);
        }
    }
    retry(|| rustix::fs::ftruncate(file, map.size)).map_err(writing)
}

fn writing(errno: Errno) -> Error {
    Error::sys("write a file", errno)
}
