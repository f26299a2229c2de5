//! What a disk of a virtual machine is to be.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::os_text;

/// What a guest may do with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Access {
    /// Read and write.
    #[default]
    ReadWrite,
    /// Read.
    ReadOnly,
}

/// A disk: a file of the host's that holds what is on it and nothing else (a raw image), or a block device. The guest has
/// it as `/dev/vda`, the next one as `/dev/vdb` and so on, with Linux's `virtio_mmio` and `virtio_blk`.
///
/// While a machine runs, its file is locked: a disk that can be written to belongs to one machine. A file on whose file
/// system there is no space left, or that somebody has made shorter, gives the guest I/O errors.
///
/// ```
/// use stockade::vm::Disk;
///
/// let root = Disk::new("/srv/debian.img").read_only().with_id("root");
/// assert_eq!(root.id(), Some("root"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    #[serde(with = "os_text")]
    path: PathBuf,
    #[serde(default)]
    access: Access,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

impl Disk {
    /// The file or block device at this path, to be read and written.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), access: Access::ReadWrite, id: None }
    }

    /// The guest can only read it. Several machines can share such a disk.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }

    /// Sets its serial number, of up to 20 ASCII characters: `/sys/block/vda/serial` in Linux. Unless told otherwise it is
    /// `disk0`, `disk1` and so on.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the guest may do with it.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Its serial number, where it was set.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// With an absolute path.
    pub(super) fn at(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// What is wrong with it, whatever the host is like.
    pub(super) fn problem(&self) -> Option<String> {
        let id = self.id.as_deref()?;
        let good = id.len() <= 20 && id.bytes().all(|b| b.is_ascii_graphic());
        (!good).then(|| format!("disk {}: its id must be up to 20 ASCII characters", self.path.display()))
    }
}
