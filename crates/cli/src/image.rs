//! A root file system out of an archive, for one run.

use std::fs::DirBuilder;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use stockade::rootfs::{Unpack, UnpackIds};

use crate::fail::Fail;
use crate::signals::Held;

/// Whether files keep the archive's owners: they are mapped when the root is mounted.
pub(crate) fn owners_are_kept() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory that nobody else can look into, with the root in it. Removed on drop.
#[derive(Debug)]
pub(crate) struct Image(PathBuf);

impl Image {
    /// Unpacks an archive, unless a signal asks for an end first.
    pub(crate) fn unpack(archive: &Path, signals: &Held) -> Result<Self, Fail> {
        let image = Self(private_dir()?);
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
        self.0.join("root")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            Fail::Other(format!("the unpacked image is left in `{}`: {e}", self.0.display())).tell();
        }
    }
}

fn private_dir() -> Result<PathBuf, Fail> {
    let base = std::env::temp_dir();
    let base = std::path::absolute(&base).unwrap_or(base);
    for number in 0.. {
        let dir = base.join(format!("stockade-image-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Fail::Other(format!("`{}`: {e}", dir.display()))),
        }
    }
    Err(Fail::Other(format!("`{}` is full of old images", base.display())))
}
