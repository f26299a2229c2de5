//! What the root file system of a container is made from.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::os_text;

/// How the owners of files look inside a container with a user namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileIds {
    /// A file of id 0 on disk belongs to root inside, and so on, through an idmapped mount (Linux 5.12,
    /// `mount_setattr(2)`; the file system must support it, and making it needs `CAP_SYS_ADMIN` on the host).
    Mapped,
    /// A file's owner on disk is an id of the host, and inside it is whatever the id map makes of that id.
    AsIs,
}

/// The root file system of a container.
///
/// ```
/// use stockade::rootfs::Rootfs;
///
/// let shared: Rootfs = Rootfs::overlay(["/srv/app", "/srv/debian"]).into();
/// assert_eq!(shared.to_string(), "overlay of /srv/app, /srv/debian");
/// let own: Rootfs = Rootfs::dir("/srv/web").into();
/// assert_eq!(own.to_string(), "directory /srv/web");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rootfs {
    /// A directory, which the container writes to.
    Dir(DirRootfs),
    /// Read-only layers with a directory for the changes above them.
    Overlay(OverlayRootfs),
    /// The host's own files, which do not change. See [`Rootfs::host`].
    Host,
}

impl Rootfs {
    /// The directory at the absolute path `path`. The container's changes go into it, so two containers should
    /// not share it: use [`overlay`](Self::overlay) for that.
    pub fn dir(path: impl Into<PathBuf>) -> DirRootfs {
        DirRootfs { path: path.into(), ids: FileIds::Mapped }
    }

    /// The directories `lower`, absolute paths, the topmost first, as read-only layers of an overlay. Changes go
    /// to a directory of the instance's own and are deleted with it.
    pub fn overlay<I>(lower: I) -> OverlayRootfs
    where
        I: IntoIterator,
        I::Item: Into<PathBuf>,
    {
        OverlayRootfs {
            lower: lower.into_iter().map(Into::into).collect(),
            upper: None,
            ids: FileIds::Mapped,
        }
    }

    /// The files of the host, for a first try and as a demonstration, **not as a sandbox**: everything that is not
    /// hidden can be read inside, with the rights of the host's root where root starts the container.
    ///
    /// Only with a user namespace. The host's files never change: root's containers write to an overlay in memory,
    /// which goes with the run. The container has `/tmp`, `/var/tmp`, `/run`, `/home` and `/root` to itself, empty;
    /// file systems that the host has mounted below `/` are left out. Hidden are the directories of the runtime
    /// and the usual places of secrets: password hashes, host keys, the files of container engines. Without
    /// `CAP_SYS_ADMIN`, which the container does not get unless its configuration says so, they stay hidden.
    ///
    /// An ordinary user cannot have such an overlay, nor can anybody where `/` is an overlay itself or where `/usr`
    /// is a file system of its own. There the container gets the directories of the host's `/` read-only, with all
    /// that is mounted below them, and reads what the user may read.
    pub fn host() -> Self {
        Self::Host
    }
}

impl fmt::Display for Rootfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "directory {}", dir.path.display()),
            Self::Overlay(overlay) => {
                f.write_str("overlay of ")?;
                for (n, layer) in overlay.lower.iter().enumerate() {
                    write!(f, "{}{}", if n == 0 { "" } else { ", " }, layer.display())?;
                }
                Ok(())
            }
            Self::Host => f.write_str("files of the host"),
        }
    }
}

/// A root file system that is a directory; made by [`Rootfs::dir`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirRootfs {
    #[serde(with = "os_text")]
    path: PathBuf,
    ids: FileIds,
}

impl DirRootfs {
    /// Sets how owners look inside: [`FileIds::Mapped`] unless told otherwise.
    #[must_use]
    pub fn ids(mut self, ids: FileIds) -> Self {
        self.ids = ids;
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How owners look inside.
    pub fn file_ids(&self) -> FileIds {
        self.ids
    }
}

impl From<DirRootfs> for Rootfs {
    fn from(dir: DirRootfs) -> Self {
        Self::Dir(dir)
    }
}

/// A root file system made of layers; made by [`Rootfs::overlay`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayRootfs {
    #[serde(with = "os_text::list")]
    lower: Vec<PathBuf>,
    #[serde(default, with = "os_text::option")]
    upper: Option<PathBuf>,
    ids: FileIds,
}

impl OverlayRootfs {
    /// Sets the directory for the changes: an absolute path, in which `upper` and `work` are made. It is the
    /// caller's: deleting the instance leaves it. One container at a time may use it.
    #[must_use]
    pub fn upper(mut self, path: impl Into<PathBuf>) -> Self {
        self.upper = Some(path.into());
        self
    }

    /// Sets how owners look inside, for all layers: [`FileIds::Mapped`] unless told otherwise.
    #[must_use]
    pub fn ids(mut self, ids: FileIds) -> Self {
        self.ids = ids;
        self
    }

    /// The read-only layers, the topmost first.
    pub fn lower(&self) -> &[PathBuf] {
        &self.lower
    }

    /// The caller's directory for the changes; `None` where the runtime places it.
    pub fn upper_dir(&self) -> Option<&Path> {
        self.upper.as_deref()
    }

    /// How owners look inside.
    pub fn file_ids(&self) -> FileIds {
        self.ids
    }
}

impl From<OverlayRootfs> for Rootfs {
    fn from(overlay: OverlayRootfs) -> Self {
        Self::Overlay(overlay)
    }
}
