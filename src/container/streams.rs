//! The standard streams of a process: from what the caller asks for to what the child gets.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::config::ContainerConfig;
use crate::error::{Error, Result};
use crate::idmap::{HostGid, HostUid, IdMap};
use crate::instance::{Pipes, Stdio};
use crate::namespaces::NamespaceSource;
use crate::process::User;
use crate::spawn::Fd;

/// Where one stream comes from, as the plan sees it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    /// What the host has under that number.
    Inherit,
    /// The container's null device.
    Null,
    /// A descriptor that goes to the child.
    Given(Fd),
}

#[derive(Debug)]
enum Source {
    Inherit,
    Null,
    Given(OwnedFd),
    /// One end of a pipe that was made here.
    Made(OwnedFd),
}

/// The child's ends, before they are handed over.
#[derive(Debug)]
pub(super) struct Sources([Source; 3]);

/// Makes the pipes that were asked for: the child's ends, and the host's.
pub(super) fn open(stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<(Sources, Pipes)> {
    let mut pipes = Pipes::default();
    let sources = [
        source(stdin, |(read, write)| {
            pipes.stdin = Some(write);
            read
        })?,
        source(stdout, |(read, write)| {
            pipes.stdout = Some(read);
            write
        })?,
        source(stderr, |(read, write)| {
            pipes.stderr = Some(read);
            write
        })?,
    ];
    Ok((Sources(sources), pipes))
}

fn source(stdio: Stdio, split: impl FnOnce((OwnedFd, OwnedFd)) -> OwnedFd) -> Result<Source> {
    Ok(match stdio {
        Stdio::Null => Source::Null,
        Stdio::Inherit => Source::Inherit,
        Stdio::Fd(fd) => Source::Given(fd),
        Stdio::Piped => {
            let ends =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::sys("make a pipe", e))?;
            Source::Made(split(ends))
        }
    })
}

impl Sources {
    /// The null device for all three.
    pub(super) fn null() -> Self {
        Self([const { Source::Null }; 3])
    }

    /// For a child that has closed what it inherited: copies of the host's streams in their place.
    pub(super) fn without_inheritance(mut self) -> Result<Self> {
        for (n, source) in (0..).zip(&mut self.0) {
            if matches!(source, Source::Inherit) {
                *source = Source::Given(crate::sys::fd::duplicate_stream(n)?);
            }
        }
        Ok(self)
    }

    /// Hands the descriptors over to `give`, which says where the child finds them.
    pub(super) fn hand_over(self, mut give: impl FnMut(OwnedFd) -> Result<Fd>) -> Result<[Stream; 3]> {
        let mut streams = [Stream::Null; 3];
        for (stream, source) in streams.iter_mut().zip(self.0) {
            *stream = match source {
                Source::Inherit => Stream::Inherit,
                Source::Null => Stream::Null,
                Source::Given(fd) | Source::Made(fd) => Stream::Given(give(fd)?),
            };
        }
        Ok(streams)
    }

    /// Makes the pipes belong to `user` of the container, as the host numbers it: who opens `/dev/stdout` inside opens
    /// the pipe anew, and a pipe of the host's root is closed to everybody in a user namespace. What the caller gave
    /// keeps its owner. Without `CAP_CHOWN` the pipes stay as they are: only that opening fails then.
    pub(super) fn belong_to(&self, user: &User, config: &ContainerConfig, map: Option<&IdMap>) -> Result<()> {
        let ids = match map {
            Some(map) => map.uid_to_host(user.uid).zip(map.gid_to_host(user.gid)),
            None if config.namespaces.user == NamespaceSource::Host => {
                Some((HostUid::new(user.uid.as_raw()), HostGid::new(user.gid.as_raw())))
            }
            None => None,
        };
        let Some((uid, gid)) = ids else { return Ok(()) };
        for source in &self.0 {
            let Source::Made(fd) = source else { continue };
            let (uid, gid) = (Uid::from_raw(uid.as_raw()), Gid::from_raw(gid.as_raw()));
            match rustix::fs::fchown(fd, Some(uid), Some(gid)) {
                Ok(()) | Err(Errno::PERM) => {}
                Err(e) => return Err(Error::sys("give a pipe to the container's user", e)),
            }
        }
        Ok(())
    }

    /// For a container whose `/dev/null` may be anything: the host's instead.
    pub(super) fn with_host_null(mut self) -> Result<Self> {
        let mut null: Option<OwnedFd> = None;
        for source in &mut self.0 {
            if !matches!(source, Source::Null) {
                continue;
            }
            let fd = match &null {
                Some(fd) => fd.as_fd().try_clone_to_owned(),
                None => std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from),
            };
            let fd = fd.map_err(|e| Error::io("open the null device", e).object("/dev/null"))?;
            if null.is_none() {
                null = Some(
                    fd.as_fd().try_clone_to_owned().map_err(|e| Error::io("duplicate a descriptor", e))?,
                );
            }
            *source = Source::Given(fd);
        }
        Ok(self)
    }
}
