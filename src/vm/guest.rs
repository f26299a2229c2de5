//! What runs in a guest that has the library's agent.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use crate::os_text;

/// How a guest uses the disk of its root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RootMode {
    /// Reads and writes it.
    #[default]
    ReadWrite,
    /// Reads it.
    ReadOnly,
    /// Reads it, and keeps changes in its memory until it ends. Many machines can have such a disk at once.
    Overlay,
}

/// The first program of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GuestInit {
    /// None but the agent: programs run by `exec`.
    #[default]
    Agent,
    /// The image's own, with its arguments, such as `/sbin/init`. The agent runs beside it.
    Image(#[serde(with = "os_text::list")] Vec<OsString>),
    /// A command, on the console. The machine switches itself off when it has ended, with its status.
    Command(#[serde(with = "os_text::list")] Vec<OsString>),
}

/// A guest with the library's agent: a small static program that is the first one in the guest. It loads modules, mounts the
/// root and starts what is to run; by it the machine has [`exec`](super::Vm::exec), knows of its guest's
/// [state](super::Vm::guest_state), and shuts down in order. It is reached by [`Vsock`](super::Vsock).
///
/// The kernel must be Linux with initramfs, devtmpfs, ACPI and modules for what is not built in: `virtio_mmio`,
/// `virtio_blk`, `vmw_vsock_virtio_transport`, the root's file system. All of Debian's kernels have them.
///
/// ```
/// use stockade::vm::{Guest, RootMode};
///
/// let guest = Guest::new("/lib/modules/6.12.0-amd64").root("/srv/debian.ext4", RootMode::Overlay);
/// assert_eq!(guest.modules().to_str(), Some("/lib/modules/6.12.0-amd64"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    #[serde(with = "os_text")]
    pub(super) modules: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) root: Option<Root>,
    #[serde(default)]
    pub(super) init: GuestInit,
    #[serde(default, with = "os_text::list", skip_serializing_if = "Vec::is_empty")]
    pub(super) env: Vec<OsString>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    #[serde(with = "os_text")]
    pub(super) path: PathBuf,
    pub(super) mode: RootMode,
    pub(super) filesystem: String,
}

impl Guest {
    /// A guest of a kernel whose modules are in this directory, which has a `modules.dep` (`depmod(8)`). Without more it has
    /// nothing but the agent.
    pub fn new(modules: impl Into<PathBuf>) -> Self {
        Self { modules: modules.into(), root: None, init: GuestInit::Agent, env: Vec::new() }
    }

    /// Sets its root: a raw image or a block device with an ext4 file system. [`PackImage`](super::PackImage) makes one
    /// from a directory. It is `/dev/vda`, before the disks of [`VmBuilder::disk`](super::VmBuilder::disk).
    #[must_use]
    pub fn root(mut self, path: impl Into<PathBuf>, mode: RootMode) -> Self {
        self.root = Some(Root { path: path.into(), mode, filesystem: "ext4".to_owned() });
        self
    }

    /// Sets the root's kind of file system, where it is not ext4.
    #[must_use]
    pub fn filesystem(mut self, name: impl Into<String>) -> Self {
        if let Some(root) = &mut self.root {
            root.filesystem = name.into();
        }
        self
    }

    /// Sets what runs first: the agent alone unless told otherwise.
    #[must_use]
    pub fn init(mut self, init: GuestInit) -> Self {
        self.init = init;
        self
    }

    /// Adds a variable to the environment of all that the agent starts.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let mut variable = name.into();
        variable.push("=");
        variable.push(value.into());
        self.env.push(variable);
        self
    }

    /// Where its modules are.
    pub fn modules(&self) -> &Path {
        &self.modules
    }

    /// The disk of its root, and how it is used.
    pub fn root_disk(&self) -> Option<(&Path, RootMode)> {
        self.root.as_ref().map(|root| (root.path.as_path(), root.mode))
    }

    pub(super) fn disk(&self) -> Option<Disk> {
        let root = self.root.as_ref()?;
        let disk = Disk::new(&root.path).with_id("root");
        Some(match root.mode {
            RootMode::ReadWrite => disk,
            RootMode::ReadOnly | RootMode::Overlay => disk.read_only(),
        })
    }

    /// With absolute paths.
    pub(super) fn absolute(mut self, mut absolute: impl FnMut(&str, PathBuf) -> PathBuf) -> Self {
        self.modules = absolute("guest: modules", self.modules);
        if let Some(root) = &mut self.root {
            root.path = absolute("guest: root", std::mem::take(&mut root.path));
        }
        self
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let GuestInit::Image(args) | GuestInit::Command(args) = &self.init
            && (args.first().is_none_or(|a| a.is_empty()) || args.iter().any(|a| a.as_bytes().contains(&0)))
        {
            found.push("guest: init: names no program, or has a zero byte".to_owned());
        }
        if self.env.iter().any(|v| v.as_bytes().contains(&0) || v.as_bytes().first() == Some(&b'=')) {
            found.push("guest: env: has a name that is empty, or a zero byte".to_owned());
        }
        if let Some(root) = &self.root {
            let name = &root.filesystem;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                found.push(format!("guest: filesystem: {name:?} is no name of one"));
            }
        }
        found
    }
}
