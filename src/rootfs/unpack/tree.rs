//! The directories of the target: which there are, and descriptors of those in use.
//!
//! The target was empty, so every directory in it was made here and is known; nothing is looked for by a path that
//! somebody else could have prepared. Descriptors are opened from one of their parents with `openat2(2)`, following
//! no links and crossing no mounts. So a directory that is replaced during the work, by a link or by anything else,
//! ends it with an error.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::member::Meta;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

/// The number of the target itself.
pub(super) const ROOT: usize = 0;

/// The mode of directories while the work goes on: nobody else is to look in, or to change anything.
pub(super) const CLOSED: Mode = Mode::RWXU;

/// Descriptors that are kept open at a time.
const KEPT: usize = 16;
/// The longest path given to the kernel at once; it takes 4095 bytes.
const PIECE: usize = 3800;
/// What may be kept of directories until the end: names, and what is set on them.
const MAX_MEMORY: usize = 256 * 1024 * 1024;

/// A directory.
struct Node {
    parent: usize,
    name: Box<[u8]>,
    children: HashMap<Box<[u8]>, usize>,
    meta: Option<Meta>,
    /// It was replaced by something else.
    gone: bool,
}

/// A directory on the way from the target to the present one.
struct Level {
    node: usize,
    fd: Option<OwnedFd>,
}

/// All directories.
pub(super) struct Tree {
    root: OwnedFd,
    nodes: Vec<Node>,
    way: Vec<Level>,
    memory: usize,
}

impl Tree {
    /// Takes a descriptor of the empty target, open for reading.
    pub(super) fn new(root: OwnedFd) -> Self {
        let node =
            Node { parent: ROOT, name: Box::default(), children: HashMap::new(), meta: None, gone: false };
        Self { root, nodes: vec![node], way: Vec::new(), memory: 0 }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory `name` in `parent`.
    pub(super) fn child(&self, parent: usize, name: &[u8]) -> Option<usize> {
        self.nodes[parent].children.get(name).copied()
    }

    /// The directory at a path.
    pub(super) fn find(&self, path: &[&[u8]]) -> Option<usize> {
        path.iter().try_fold(ROOT, |node, name| self.child(node, name))
    }

    /// The part of the path on which the present directory lies: how many of its names need not be gone again.
    pub(super) fn turn_to(&mut self, path: &[&[u8]]) -> usize {
        let same =
            self.way.iter().zip(path).take_while(|(level, name)| *self.nodes[level.node].name == ***name);
        let same = same.count();
        self.way.truncate(same);
        same
    }

    /// The directory that the way has come to.
    pub(super) fn here(&self) -> usize {
        self.way.last().map_or(ROOT, |level| level.node)
    }

    /// Goes on into a directory of the present one.
    pub(super) fn go_into(&mut self, node: usize) {
        self.way.push(Level { node, fd: None });
    }

    /// Goes to a directory wherever it is.
    pub(super) fn go_to(&mut self, node: usize) {
        let mut nodes = Vec::new();
        let mut at = node;
        while at != ROOT {
            nodes.push(at);
            at = self.nodes[at].parent;
        }
        nodes.reverse();
        let same = self.way.iter().zip(&nodes).take_while(|(level, node)| level.node == **node).count();
        self.way.truncate(same);
        self.way.extend(nodes[same..].iter().map(|&node| Level { node, fd: None }));
    }

    /// A descriptor of the present directory, for use as the `dirfd` of other calls.
    pub(super) fn fd(&mut self) -> Result<BorrowedFd<'_>, Errno> {
        let open = self.way.iter().rposition(|level| level.fd.is_some()).map_or(0, |n| n + 1);
        let mut at = open;
        while at < self.way.len() {
            let mut path = Vec::new();
            while let Some(level) = self.way.get(at) {
                let name = &self.nodes[level.node].name;
                if !path.is_empty() {
                    if path.len() + name.len() > PIECE {
                        break;
                    }
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                at += 1;
            }
            let from = self.way[..at].iter().rev().find_map(|level| level.fd.as_ref()).unwrap_or(&self.root);
            let fd = open_dir(from.as_fd(), &path, OFlags::PATH)?;
            self.way[at - 1].fd = Some(fd);
        }
        let far = self.way.len().saturating_sub(KEPT);
        self.way[..far].iter_mut().for_each(|level| level.fd = None);
        Ok(self.way.last().and_then(|level| level.fd.as_ref()).unwrap_or(&self.root).as_fd())
    }

    /// Notes a directory that was made.
    pub(super) fn add(&mut self, parent: usize, name: &[u8]) -> Result<usize> {
        self.remember(size_of::<Node>() + 3 * name.len() + 64)?;
        let node = self.nodes.len();
        let name: Box<[u8]> = name.into();
        self.nodes.push(Node {
            parent,
            name: name.clone(),
            children: HashMap::new(),
            meta: None,
            gone: false,
        });
        self.nodes[parent].children.insert(name, node);
        Ok(node)
    }

    /// Notes that a directory was replaced by something else.
    pub(super) fn remove(&mut self, parent: usize, name: &[u8]) {
        if let Some(node) = self.nodes[parent].children.remove(name) {
            self.nodes[node].gone = true;
        }
    }

    /// Notes what is to be set on a directory at the end. What is noted later counts.
    pub(super) fn set_meta(&mut self, node: usize, meta: Meta) -> Result<()> {
        self.remember(meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum())?;
        self.nodes[node].meta = Some(meta);
        Ok(())
    }

    /// Counts what is kept until the end.
    pub(super) fn remember(&mut self, bytes: usize) -> Result<()> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > MAX_MEMORY {
            return Err(Error::new(ErrorKind::Exhausted, "unpack the archive")
                .detail(format!("its directories take more than {MAX_MEMORY} bytes of memory")));
        }
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.iter().filter(|node| !node.gone).count() - 1
    }

    /// The directories below the target with what is to be set on them, each after those in it.
    pub(super) fn last_first(&mut self) -> impl Iterator<Item = usize> + use<> {
        let there: Vec<usize> = (1..self.nodes.len()).rev().filter(|&n| !self.nodes[n].gone).collect();
        there.into_iter()
    }

    pub(super) fn take_meta(&mut self, node: usize) -> Option<Meta> {
        self.nodes[node].meta.take()
    }

    /// Opens a directory itself, to set things on it.
    pub(super) fn open(&mut self, node: usize) -> Result<OwnedFd, Errno> {
        self.go_to(self.nodes[node].parent);
        let name = self.nodes[node].name.clone();
        open_dir(self.fd()?, &name, OFlags::RDONLY)
    }

    /// The path of a directory below the target.
    pub(super) fn path(&self, node: usize) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = node;
        while at != ROOT {
            names.push(&*self.nodes[at].name);
            at = self.nodes[at].parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// Opens a directory below another (`openat2(2)`): no links, nothing mounted.
pub(super) fn open_dir(from: BorrowedFd<'_>, path: &[u8], access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        // EAGAIN: something was renamed meanwhile, and the kernel could not tell whether the path stays below.
        match retry(|| rustix::fs::openat2(from, path, flags, Mode::empty(), resolve)) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            result => return result,
        }
    }
}
