//! The superblock of a container's files (`fsopen(2)`, `fuse(4)`).

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::{Server, Subject};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

const DEVICE: &str = "/dev/fuse";
const STEP: &str = "make the file system of resource views";

/// A FUSE file system that is nowhere yet.
#[derive(Debug)]
pub(crate) struct Unmounted {
    device: OwnedFd,
    context: OwnedFd,
}

impl Unmounted {
    /// Sees whether there can be one here. Changes nothing.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) without `/dev/fuse` or FUSE in the kernel.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = retry(|| rustix::fs::openat(CWD, DEVICE, flags, Mode::empty())).map_err(|errno| {
            let e = Error::sys(STEP, errno).path(DEVICE);
            match errno {
                Errno::NOENT | Errno::NXIO | Errno::NODEV => e
                    .with_kind(ErrorKind::Unsupported)
                    .hint("load the kernel's module `fuse`; where this process is in a container, give that the device"),
                Errno::ACCESS | Errno::PERM => e.hint("it is the devices that this process may open that lack it"),
                _ => e,
            }
        })?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
            let e = Error::sys(STEP, errno).object("fuse");
            match errno {
                Errno::NODEV => {
                    e.with_kind(ErrorKind::Unsupported).detail("this kernel has no FUSE (CONFIG_FUSE_FS)")
                }
                Errno::PERM => e.hint("it needs CAP_SYS_ADMIN; leave resource views out without it"),
                _ => e,
            }
        })?;
        Ok(Self { device, context })
    }

    /// Makes the superblock and has it served. Gives its mount, which is attached nowhere and holds it.
    pub(crate) fn mount(self, server: &Server, owner: &str, subject: Subject) -> Result<OwnedFd> {
        let Self { device, context } = self;
        let failed = |errno| Error::sys(STEP, errno);
        let number = device.as_raw_fd().to_string();
        let user = rustix::process::geteuid().as_raw().to_string();
        let group = rustix::process::getegid().as_raw().to_string();
        for (key, value) in [
            ("source", "stockade"),
            ("subtype", "stockade"),
            ("fd", &*number),
            ("rootmode", "40555"),
            ("user_id", &*user),
            ("group_id", &*group),
        ] {
            fsconfig_set_string(&context, key, value).map_err(|errno| failed(errno).object(key))?;
        }
        // Others than this user are all of the container's.
        for key in ["ro", "allow_other", "default_permissions"] {
            fsconfig_set_flag(&context, key).map_err(|errno| failed(errno).object(key))?;
        }
        fsconfig_create(&context).map_err(failed)?;
        let attrs = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs).map_err(failed)?;
        // Before this its requests wait.
        server.add(owner, device, subject)?;
        Ok(mount)
    }
}
