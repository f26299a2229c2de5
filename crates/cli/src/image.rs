//! A root file system out of an archive, for one run.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use stockade::rootfs::{Unpack, UnpackIds};
use stockade::{Rootfs, Runtime};

use crate::fail::Fail;
use crate::signals::Held;

/// What the directories' names begin with.
const NAME: &str = "stockade-image-";

/// Whether files keep the archive's owners: they are mapped when the root is mounted.
pub(crate) fn owners_are_kept() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory that nobody else can look into, with the root in it. Removed on drop, or, should this process be killed, by
/// the next run.
#[derive(Debug)]
pub(crate) struct Image {
    dir: PathBuf,
    /// Locked for as long as this process lives.
    _lock: File,
}

impl Image {
    /// Unpacks an archive, unless a signal asks for an end first. `place` tells this runtime from others.
    pub(crate) fn unpack(archive: &Path, place: &Path, signals: &Held) -> Result<Self, Fail> {
        let image = private_dir()?;
        let note = image.dir.join(PLACE);
        std::fs::write(&note, place.as_os_str().as_bytes()).map_err(|e| named(&note, e))?;
        let ids = if owners_are_kept() { UnpackIds::AsIs } else { UnpackIds::Caller };
        // Asking costs more than unpacking a small file does.
        let mut calls = 0_u32;
        let look = |_| {
            let ended = calls.is_multiple_of(64) && signals.end_asked();
            calls = calls.wrapping_add(1);
            if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let done = Unpack::new().ids(ids).progress(look).run_file(archive, image.root())?;
        if done.skipped_total > 0 {
            // If it cannot be told there is nobody to tell.
            let _ = writeln!(
                std::io::stderr(),
                "stockade: {} devices and attributes of the image are left out",
                done.skipped_total
            );
        }
        Ok(image)
    }

    /// Where the root is.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            Fail::Other(format!("the unpacked image is left in `{}`: {e}", self.dir.display())).tell();
        }
    }
}

/// The file in which the place of the runtime is noted that the image is for.
const PLACE: &str = "runtime";

/// Removes the images of runs that were killed and whose containers have ended since. What cannot be removed stays for
/// the run after this one.
pub(crate) fn sweep(runtime: &Runtime, place: &Path) {
    let base = base();
    let Ok(entries) = std::fs::read_dir(&base) else { return };
    let mut used: Option<Vec<PathBuf>> = None;
    for entry in entries.flatten() {
        if !entry.file_name().as_bytes().starts_with(NAME.as_bytes()) {
            continue;
        }
        let dir = entry.path();
        // One that nobody has locked is nobody's; this process locks it against others who sweep.
        let Some(_lock) = lock(&dir) else { continue };
        let noted = std::fs::read(dir.join(PLACE)).unwrap_or_default();
        // Killed before the note was whole, a run has not made its container.
        let unpacked = dir.join("root").exists();
        if unpacked && noted != place.as_os_str().as_bytes() {
            continue;
        }
        let used = match &used {
            Some(used) => used,
            None => match roots(runtime) {
                Ok(roots) => used.insert(roots),
                Err(_) => return,
            },
        };
        if !used.iter().any(|root| root.starts_with(&dir)) {
            drop(std::fs::remove_dir_all(&dir));
        }
    }
}

/// The directories that are the roots of containers.
fn roots(runtime: &Runtime) -> stockade::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for instance in runtime.list()? {
        match runtime.container(&instance.id()) {
            Ok(container) => {
                if let Rootfs::Dir(dir) = container.config().rootfs() {
                    found.push(dir.path().to_owned());
                }
            }
            Err(e) if e.kind() == stockade::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn base() -> PathBuf {
    let base = std::env::temp_dir();
    std::path::absolute(&base).unwrap_or(base)
}

fn named(path: &Path, e: std::io::Error) -> Fail {
    Fail::Other(format!("`{}`: {e}", path.display()))
}

/// Locks a directory of this user, unless somebody else has; `None` too if there is no such directory (any more).
fn lock(dir: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(dir, flags, Mode::empty()).ok()?);
    let meta = file.metadata().ok()?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    file.try_lock().ok()?;
    // Somebody may have removed it between the two.
    let now = std::fs::symlink_metadata(dir).ok()?;
    ((now.dev(), now.ino()) == (meta.dev(), meta.ino())).then_some(file)
}

fn private_dir() -> Result<Image, Fail> {
    let base = base();
    for number in 0.. {
        let dir = base.join(format!("{NAME}{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            // Who sweeps may have been faster and has removed it.
            Ok(()) => {
                if let Some(lock) = lock(&dir) {
                    return Ok(Image { dir, _lock: lock });
                }
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(named(&dir, e)),
        }
    }
    Err(Fail::Other(format!("`{}` is full of old images", base.display())))
}
