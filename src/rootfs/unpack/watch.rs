//! Limits, progress and cancellation of one unpacking.

use super::options::{Progress, UnpackLimits};
use crate::error::{Error, ErrorKind, Result};

/// So many bytes are let pass whatever their ratio: it takes more to do harm.
const RATIO_FREE: u64 = 64 * 1024 * 1024;

/// Looked at for each member and each chunk.
pub(super) struct Watch<'w> {
    pub(super) limits: UnpackLimits,
    pub(super) progress: Option<&'w mut dyn FnMut(Progress)>,
    pub(super) cancelled: Option<&'w dyn Fn() -> bool>,
    pub(super) state: Progress,
}

impl Watch<'_> {
    /// After another chunk: `taken` bytes of the archive were read, which became `produced`.
    pub(super) fn look(&mut self, taken: u64, produced: u64) -> Result<()> {
        self.state.taken = taken;
        self.total_bytes(produced)?;
        let ratio = self.limits.ratio;
        if produced > RATIO_FREE && produced / u64::from(ratio.max(1)) > taken {
            return Err(limit(format!("grows to more than {ratio} times its size"), "ratio"));
        }
        self.tell()
    }

    /// Checks a size of the whole archive after decompression, reached or announced.
    pub(super) fn total_bytes(&self, total: u64) -> Result<()> {
        let max = self.limits.bytes;
        if total > max {
            return Err(limit(format!("holds more than {max} bytes"), "bytes"));
        }
        Ok(())
    }

    /// Counts a member, or a directory that none names.
    pub(super) fn member(&mut self) -> Result<()> {
        self.state.members += 1;
        let max = self.limits.members;
        if self.state.members > max {
            return Err(limit(format!("has more than {max} members"), "members"));
        }
        self.tell()
    }

    pub(super) fn depth(&self, depth: usize) -> Result<()> {
        let max = self.limits.depth;
        if depth > max as usize {
            return Err(limit(format!("has a path of more than {max} parts"), "depth"));
        }
        Ok(())
    }

    pub(super) fn wrote(&mut self, bytes: usize) {
        self.state.written += bytes as u64;
    }

    fn tell(&mut self) -> Result<()> {
        if let Some(progress) = &mut self.progress {
            progress(self.state);
        }
        match self.cancelled {
            Some(cancelled) if cancelled() => {
                Err(Error::new(ErrorKind::Cancelled, "unpack the archive").detail("the caller ended it"))
            }
            _ => Ok(()),
        }
    }
}

fn limit(what: String, name: &'static str) -> Error {
    Error::new(ErrorKind::Exhausted, "unpack the archive")
        .detail(format!("it {what}"))
        .hint(format!("`UnpackLimits::{name}` can be raised for an archive that is trusted"))
}
