//! Unpacking a root file system from a tar archive.
//!
//! ```text
//! options   what the caller chooses and is told
//! input     the archive's bytes: decompressed, counted          watch   limits, progress, cancellation
//! archive   from header to header                               member, pax, sparse, number   what headers say
//! make      members become files                                names, content
//! tree      the target's directories, by descriptor            whiteout   what a layer hides of those below
//! attrs     owners, capabilities and ACLs for an id map         clear   what a failure leaves is removed
//! ```

mod archive;
mod attrs;
mod clear;
mod content;
mod input;
mod make;
mod member;
mod names;
mod number;
mod options;
mod pax;
mod sparse;
mod tree;
mod watch;
mod whiteout;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use archive::Archive;
use input::Input;
use make::Maker;
pub use options::{
    Compression, DeviceKind, OnFailure, Progress, Skipped, SkippedPart, UnpackDevices, UnpackIds,
    UnpackLimits, UnpackWhiteouts, Unpacked,
};
use tree::{CLOSED, Tree};
use watch::{Told, Watch};
use whiteout::Hidden;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

/// Unpacks a tar archive into a directory, as the root file system of a container.
///
/// v7, ustar, GNU and PAX archives, plain or compressed by gzip, zstd or xz, which is found out by their first
/// bytes. Kept are owners by number, modes, times of modification to the nanosecond, extended attributes with file
/// capabilities and POSIX ACLs, hard and symbolic links, devices, pipes, and holes in files. The result is what
/// `tar --numeric-owner --xattrs --xattrs-include='*' -xp` makes of the archive.
///
/// **The archive need not be trusted.** Nothing is made outside of the target, whatever the archive holds and
/// whatever somebody else does to the target meanwhile; see [`UnpackLimits`] for what it may ask for. What is
/// malformed, cut off or damaged gives an error that names the member, never half a success. These are refused:
/// paths with `..`; members below a symbolic link or below a file; hard links to what the archive has not made;
/// types of members that are not known. A leading `/` means the target. A later member replaces an earlier one of
/// its name, but not a directory with something in it. Symbolic links are made as they are, wherever they point to:
/// they are not followed.
///
/// Modes include set-user-id bits, and files may have capabilities: keep the target where other users of the host
/// have no access, such as below a directory with mode 0700.
///
/// ```
/// use stockade::rootfs::{Unpack, UnpackIds};
///
/// # let dir = std::env::temp_dir().join(format!("stockade-doc-unpack-{}", std::process::id()));
/// # std::fs::create_dir(&dir).unwrap();
/// # let archive = {
/// #     let mut header = [0_u8; 512];
/// #     header[..8].copy_from_slice(b"etc/motd");
/// #     header[100..108].copy_from_slice(b"0000644\0");
/// #     header[124..136].copy_from_slice(b"00000000006\0");
/// #     header[156] = b'0';
/// #     header[148..156].fill(b' ');
/// #     let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
/// #     header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
/// #     let mut bytes = header.to_vec();
/// #     bytes.extend_from_slice(b"hello\n");
/// #     bytes.resize(3 * 1024, 0);
/// #     bytes
/// # };
/// let target = dir.join("root");
/// let unpacked = Unpack::new().ids(UnpackIds::Caller).run(archive.as_slice(), &target)?;
/// assert_eq!(unpacked.files, 1);
/// assert_eq!(std::fs::read_to_string(target.join("etc/motd")).unwrap(), "hello\n");
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Default)]
pub struct Unpack<'a> {
    ids: UnpackIds,
    devices: UnpackDevices,
    whiteouts: UnpackWhiteouts,
    limits: UnpackLimits,
    on_failure: OnFailure,
    progress: Option<Box<Told<'a>>>,
}

impl fmt::Debug for Unpack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpack")
            .field("ids", &self.ids)
            .field("devices", &self.devices)
            .field("whiteouts", &self.whiteouts)
            .field("limits", &self.limits)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}

impl<'a> Unpack<'a> {
    /// The ids of the archive as they are, devices where they are permitted, the default limits; a failure leaves
    /// nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who owns what is unpacked.
    #[must_use]
    pub fn ids(mut self, ids: UnpackIds) -> Self {
        self.ids = ids;
        self
    }

    /// What is done with device nodes.
    #[must_use]
    pub fn devices(mut self, devices: UnpackDevices) -> Self {
        self.devices = devices;
        self
    }

    /// What is done with the whiteouts of an image's layer.
    ///
    /// ```no_run
    /// use stockade::Rootfs;
    /// use stockade::rootfs::{Unpack, UnpackWhiteouts};
    ///
    /// for layer in ["base", "update"] {
    ///     let archive = format!("/srv/{layer}.tar.gz");
    ///     Unpack::new().whiteouts(UnpackWhiteouts::Overlay).run_file(archive, format!("/srv/layers/{layer}"))?;
    /// }
    /// let root = Rootfs::overlay(["/srv/layers/update", "/srv/layers/base"]);
    /// # drop(root);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn whiteouts(mut self, whiteouts: UnpackWhiteouts) -> Self {
        self.whiteouts = whiteouts;
        self
    }

    /// How much the archive may ask for.
    #[must_use]
    pub fn limits(mut self, limits: UnpackLimits) -> Self {
        self.limits = limits;
        self
    }

    /// What a failure leaves.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Sets what is called for each member and each 64 to 128 KiB, in the calling thread. `Break` ends the work with
    /// [`Cancelled`](ErrorKind::Cancelled). A reader that waits is not interrupted.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use stockade::Cancel;
    /// use stockade::rootfs::Unpack;
    ///
    /// let cancel = Cancel::new()?;
    /// let unpack = Unpack::new().progress(|done| {
    ///     if let Some(total) = done.total {
    ///         println!("{} %", done.taken * 100 / total.max(1));
    ///     }
    ///     if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    /// });
    /// # drop(unpack);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn progress(mut self, progress: impl FnMut(Progress) -> ControlFlow<()> + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Unpacks the archive in the file `archive` into the directory `target`; otherwise as [`run`](Self::run).
    ///
    /// # Errors
    /// As `run`, and whatever opening the file gives.
    pub fn run_file(self, archive: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Unpacked> {
        let path = archive.as_ref();
        let fail = |e| Error::io("open the archive", e).path(path).with_op("unpack");
        let file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if meta.is_dir() {
            let e = Error::sys("open the archive", Errno::ISDIR).with_kind(ErrorKind::InvalidConfig);
            return Err(e.path(path).with_op("unpack"));
        }
        self.unpack(file, meta.is_file().then_some(meta.len()), target.as_ref())
    }

    /// Unpacks the archive that `archive` reads into the directory `target`, which is made, or must be empty.
    /// Its parent must exist. While the work goes on, directories have mode 0700.
    ///
    /// Blocks until the archive's end: it is read to it, past the end mark, so that checksums are looked at. A
    /// compressed archive is decompressed by a thread of its own, with all signals blocked, which has ended when
    /// the call returns; the reader is used in that thread. Nothing is synced to disk (`syncfs(2)`).
    ///
    /// # Errors
    /// With [`OnFailure::Remove`], the default, nothing is left after any of them.
    /// - [`Corrupt`](ErrorKind::Corrupt): the archive is malformed, cut off or damaged, or holds what is refused.
    /// - [`Exhausted`](ErrorKind::Exhausted): one of the [limits](UnpackLimits), or of the host, such as a full
    ///   disk; the second has an [errno](Error::errno).
    /// - [`Unsupported`](ErrorKind::Unsupported): compression or a type of member that is not known.
    /// - [`InvalidConfig`](ErrorKind::InvalidConfig): the target is not empty or no directory, or the id map lacks
    ///   an owner of the archive.
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied): owners cannot be set; see [`UnpackIds`].
    /// - [`Cancelled`](ErrorKind::Cancelled).
    /// - What the reader gives, and any refusal by the file system.
    pub fn run(self, archive: impl Read + Send, target: impl AsRef<Path>) -> Result<Unpacked> {
        self.unpack(archive, None, target.as_ref())
    }

    fn unpack(self, archive: impl Read + Send, total: Option<u64>, path: &Path) -> Result<Unpacked> {
        let named = |e: Error| e.with_op("unpack");
        let Self { ids, devices, whiteouts, limits, on_failure, progress } = self;
        let target = Target::open(path).map_err(named)?;
        let state = Progress { total, ..Progress::default() };
        let watch = Watch { limits, progress, state };
        let result = target.fd.try_clone().map_err(|e| Error::io("open the target", e)).and_then(|root| {
            std::thread::scope(|scope| {
                let input = Input::open(archive, scope, watch)?;
                let done = empty_result(input.compression());
                let tree = Tree::new(root);
                let mut maker = Maker {
                    tree,
                    ids: &ids,
                    devices,
                    whiteouts,
                    hidden: Hidden::new(),
                    opaque: HashSet::new(),
                    done,
                    root_mode: target.mode,
                };
                let mut archive = Archive::new(input);
                while let Some(member) = archive.next()? {
                    maker.make(member, &mut archive)?;
                }
                maker.finish()?;
                let mut done = maker.done;
                done.written = archive.input.watch.state.written;
                done.archive = archive.input.taken();
                Ok(done)
            })
        });
        result.map_err(|e| named(if on_failure == OnFailure::Remove { target.undo(e) } else { e }))
    }
}

fn empty_result(compression: Compression) -> Unpacked {
    Unpacked {
        compression,
        members: 0,
        files: 0,
        directories: 0,
        symlinks: 0,
        hard_links: 0,
        devices: 0,
        fifos: 0,
        whiteouts: 0,
        opaque: 0,
        opaque_root: false,
        written: 0,
        archive: 0,
        skipped: Vec::new(),
        skipped_total: 0,
    }
}

/// The directory that is unpacked into.
struct Target<'p> {
    path: &'p Path,
    fd: OwnedFd,
    /// Whether it was made here.
    made: bool,
    /// The mode that it had, or is to have if the archive does not say.
    mode: Mode,
}

impl<'p> Target<'p> {
    /// Makes or opens the directory, and closes it to others.
    fn open(path: &'p Path) -> Result<Self> {
        const STEP: &str = "prepare the target";
        let fail = |e| Error::sys(STEP, e).path(path);
        let made = match retry(|| rustix::fs::mkdirat(CWD, path, CLOSED)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(fail(e)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let nofollow = if made { OFlags::NOFOLLOW } else { OFlags::empty() };
        let fd = retry(|| rustix::fs::openat(CWD, path, flags | nofollow, Mode::empty())).map_err(|e| {
            let e = fail(e);
            if e.errno() == Some(Errno::NOTDIR.raw_os_error()) {
                e.with_kind(ErrorKind::InvalidConfig)
            } else {
                e
            }
        })?;
        let mode = if made {
            Mode::from_raw_mode(0o755)
        } else {
            Mode::from_raw_mode(rustix::fs::fstat(&fd).map_err(fail)?.st_mode & 0o7777)
        };
        let target = Self { path, fd, made, mode };
        if !clear::is_empty(target.fd.as_fd()).map_err(fail)? {
            return Err(Error::invalid(STEP, "the directory is not empty").path(path));
        }
        rustix::fs::fchmod(&target.fd, CLOSED).map_err(fail)?;
        Ok(target)
    }

    /// Takes back what was made; what cannot be is said.
    fn undo(&self, error: Error) -> Error {
        let cleared = clear::clear(self.fd.as_fd()).and_then(|()| {
            if self.made {
                rustix::fs::unlinkat(CWD, self.path, AtFlags::REMOVEDIR)
            } else {
                rustix::fs::fchmod(&self.fd, self.mode)
            }
        });
        match cleared {
            Ok(()) => error,
            Err(e) => error.also(format!("what was unpacked is left in {}: {e}", self.path.display())),
        }
    }
}
