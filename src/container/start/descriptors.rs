//! The descriptors that go to the child: known by number when the plan is built, made when their time has come.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::rootfs::tree::{self, Depth};
use crate::spawn::Fd;

/// The most that a container may need: what one message carries, less one for a plan in a memfd.
const MAX: usize = 119;

/// Something to be handed over.
#[derive(Debug)]
enum Need {
    Ready(OwnedFd),
    /// A detached copy of a directory or file, with the id map of the user namespace where `mapped`.
    Tree { what: &'static str, source: OwnedFd, path: PathBuf, depth: Depth, attrs: u64, mapped: bool },
}

/// A list of them, with the slots of the plan that they will lie in.
#[derive(Debug)]
pub(super) struct Descriptors {
    first_slot: u8,
    needs: Vec<Need>,
}

impl Descriptors {
    pub(super) fn from_slot(first_slot: u8) -> Self {
        Self { first_slot, needs: Vec::new() }
    }

    fn push(&mut self, need: Need) -> Result<Fd> {
        if usize::from(self.first_slot) + self.needs.len() >= MAX {
            return Err(Error::invalid("mounts", "are more than one start can carry (119 descriptors)")
                .hint("bind one directory that holds the others"));
        }
        self.needs.push(need);
        Ok(Fd::Slot(self.first_slot + (self.needs.len() - 1) as u8))
    }

    /// A descriptor as it is.
    pub(super) fn ready(&mut self, fd: OwnedFd) -> Result<Fd> {
        self.push(Need::Ready(fd))
    }

    /// A detached copy of what `source` is open on.
    pub(super) fn tree(
        &mut self,
        what: &'static str,
        source: OwnedFd,
        path: PathBuf,
        depth: Depth,
        attrs: u64,
        mapped: bool,
    ) -> Result<Fd> {
        self.push(Need::Tree { what, source, path, depth, attrs, mapped })
    }

    pub(super) fn len(&self) -> u8 {
        self.needs.len() as u8
    }

    /// Makes them all; `userns` has the id map.
    pub(super) fn make(self, userns: Option<BorrowedFd<'_>>) -> Result<Vec<OwnedFd>> {
        self.needs
            .into_iter()
            .map(|need| match need {
                Need::Ready(fd) => Ok(fd),
                Need::Tree { what, source, path, depth, attrs, mapped } => {
                    let map = if mapped { userns } else { None };
                    tree::detach(what, source.as_fd(), &path, depth, attrs, map)
                }
            })
            .collect()
    }

    /// Whether any of them needs the user namespace.
    pub(super) fn need_user_namespace(&self) -> bool {
        self.needs.iter().any(|n| matches!(n, Need::Tree { mapped: true, .. }))
    }
}
