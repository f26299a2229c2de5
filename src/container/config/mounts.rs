//! Mounts inside a container.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::os_text;
use crate::rootfs::FileIds;

/// What OCI runtimes hide by default.
pub(super) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// What OCI runtimes make read-only by default.
pub(super) const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The files of proc and sysfs that a mount may cover: those that lxcfs shows with the container's own numbers.
const COVERABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/sys/devices/system/cpu/online",
    "/sys/fs/cgroup",
];

/// Which of the usual mounts a container gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MountSet {
    /// proc, /dev with the usual nodes, devpts, /dev/shm, mqueue, sysfs (read-only) and cgroup2.
    #[default]
    Standard,
    /// None: only the root and what [`ContainerBuilder::mount`](super::ContainerBuilder::mount) adds.
    None,
}

/// How mount and unmount events pass between the container's mounts and the host's
/// (`mount_namespaces(7)`), for the whole tree of the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host to the container.
    Slave,
    /// Among namespaces that the container itself makes.
    Shared,
    /// Not at all, and the mounts cannot be bound elsewhere.
    Unbindable,
}

/// The flags of a mount (`mount(8)`).
///
/// The default is writable and executable, with `nosuid` and `nodev`: a directory of the host brings no set-id
/// programs and no devices with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MountOptions {
    /// Nothing can be written.
    pub read_only: bool,
    /// Set-user-id, set-group-id bits and file capabilities have no effect.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// No file can be executed.
    pub noexec: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { read_only: false, nosuid: true, nodev: true, noexec: false }
    }
}

/// A mount that a container gets besides the usual ones.
///
/// The target is an absolute path inside, without `..`; it is made where it is missing. Links in it are followed
/// inside the container's root and never out of it. Targets in `/proc` and `/sys` are refused, but for
/// `/proc/{cpuinfo,diskstats,loadavg,meminfo,slabinfo,stat,swaps,uptime}`, `/sys/devices/system/cpu/online` and
/// `/sys/fs/cgroup`.
///
/// ```
/// use stockade::container::Mount;
///
/// let data = Mount::bind("/srv/data", "/data").read_only();
/// let scratch = Mount::tmpfs("/scratch").size(64 << 20).noexec();
/// assert_eq!(Mount::from(data).target(), std::path::Path::new("/data"));
/// assert!(Mount::from(scratch).options().noexec);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mount {
    /// A file or directory of the host.
    Bind(BindMount),
    /// An empty file system in memory.
    Tmpfs(TmpfsMount),
}

impl Mount {
    /// The file or directory `source` of the host, an absolute path, at `target`, without what is mounted below
    /// it.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> BindMount {
        BindMount {
            source: source.into(),
            target: target.into(),
            recursive: false,
            ids: FileIds::AsIs,
            options: MountOptions::default(),
        }
    }

    /// An empty file system in memory at `target`, with mode 0755.
    pub fn tmpfs(target: impl Into<PathBuf>) -> TmpfsMount {
        TmpfsMount { target: target.into(), size: None, mode: 0o755, options: MountOptions::default() }
    }

    /// Where it is, inside.
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind(m) => &m.target,
            Self::Tmpfs(m) => &m.target,
        }
    }

    /// Its flags.
    pub fn options(&self) -> MountOptions {
        match self {
            Self::Bind(m) => m.options,
            Self::Tmpfs(m) => m.options,
        }
    }
}

macro_rules! option_setters {
    ($t:ty) => {
        impl $t {
            /// Nothing can be written to it.
            #[must_use]
            pub fn read_only(mut self) -> Self {
                self.options.read_only = true;
                self
            }

            /// No file of it can be executed.
            #[must_use]
            pub fn noexec(mut self) -> Self {
                self.options.noexec = true;
                self
            }

            /// Set-id bits and file capabilities in it have effect.
            #[must_use]
            pub fn suid(mut self) -> Self {
                self.options.nosuid = false;
                self
            }

            /// Device nodes in it can be opened. Refused for privileged containers.
            #[must_use]
            pub fn dev(mut self) -> Self {
                self.options.nodev = false;
                self
            }

            /// Sets all flags at once.
            #[must_use]
            pub fn with_options(mut self, options: MountOptions) -> Self {
                self.options = options;
                self
            }
        }
    };
}

option_setters!(BindMount);
option_setters!(TmpfsMount);

impl From<BindMount> for Mount {
    fn from(m: BindMount) -> Self {
        Self::Bind(m)
    }
}

impl From<TmpfsMount> for Mount {
    fn from(m: TmpfsMount) -> Self {
        Self::Tmpfs(m)
    }
}

/// A bind mount; made by [`Mount::bind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindMount {
    #[serde(with = "os_text")]
    source: PathBuf,
    #[serde(with = "os_text")]
    target: PathBuf,
    #[serde(default)]
    recursive: bool,
    ids: FileIds,
    #[serde(default)]
    options: MountOptions,
}

impl BindMount {
    /// With everything that is mounted below the source at the time of the start.
    #[must_use]
    pub fn recursive(mut self) -> Self {
        self.recursive = true;
        self
    }

    /// Shows the owners of files through the container's id map: see [`FileIds::Mapped`].
    #[must_use]
    pub fn idmapped(mut self) -> Self {
        self.ids = FileIds::Mapped;
        self
    }

    /// The file or directory of the host.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Where it is, inside.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether mounts below the source come with it.
    pub fn is_recursive(&self) -> bool {
        self.recursive
    }

    /// How owners look inside.
    pub fn file_ids(&self) -> FileIds {
        self.ids
    }

    /// Its flags.
    pub fn options(&self) -> MountOptions {
        self.options
    }
}

/// A tmpfs mount (`tmpfs(5)`); made by [`Mount::tmpfs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TmpfsMount {
    #[serde(with = "os_text")]
    target: PathBuf,
    size: Option<u64>,
    mode: u32,
    #[serde(default)]
    options: MountOptions,
}

impl TmpfsMount {
    /// Sets the most that it can hold, in bytes; the kernel rounds up to whole pages. Unless told otherwise half
    /// of the machine's memory, which the container's memory limit also counts.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Sets the mode of its top directory, such as 0o1777.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Where it is, inside.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The most that it can hold, in bytes.
    pub fn max_size(&self) -> Option<u64> {
        self.size
    }

    /// The mode of its top directory.
    pub fn top_mode(&self) -> u32 {
        self.mode
    }

    /// Its flags.
    pub fn options(&self) -> MountOptions {
        self.options
    }
}

/// Whether a mount may be put at `target`, a clean absolute path, as far as proc and sysfs go.
pub(super) fn may_cover(target: &Path) -> bool {
    COVERABLE.iter().any(|ok| target == Path::new(ok))
        || !(target.starts_with("/proc") || target.starts_with("/sys"))
}
