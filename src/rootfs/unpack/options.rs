//! What the caller chooses, and what is told back.

use std::fmt;
use std::path::PathBuf;

use crate::idmap::IdMap;

/// Who owns what is unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnpackIds {
    /// The ids of the archive, unchanged: for a root that is mounted with an id map, as
    /// [`FileIds::Mapped`](crate::rootfs::FileIds::Mapped) roots are, or for a privileged container. Needs
    /// `CAP_CHOWN` and, for file capabilities, `CAP_SETFCAP`.
    #[default]
    AsIs,
    /// The ids of the archive are inner ids of this map, and the files get the host's ids behind them: for a root
    /// used as it is on disk ([`FileIds::AsIs`](crate::rootfs::FileIds::AsIs)). File capabilities and POSIX ACLs
    /// are rewritten too. Privileges as above.
    ///
    /// An id that the map does not have is an error.
    Shifted(IdMap),
    /// Everything belongs to the caller, who needs no privilege: for a container with one id. Set-user-id and
    /// set-group-id bits are left out, for they would lend the caller's rights to every user of the host.
    Caller,
}

/// What is done with device nodes of the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnpackDevices {
    /// They are made (`mknod(2)`). Where the kernel does not permit it (`CAP_MKNOD` in the first user namespace),
    /// they are left out and listed.
    #[default]
    Make,
    /// They are left out and listed.
    List,
}

/// What is done with the whiteouts of an image's layer: members whose names begin with `.wh.` and which say what of
/// the layers below is not there any more (OCI image specification, `layer.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnpackWhiteouts {
    /// They are files like any other: right for archives that are no layers.
    #[default]
    Plain,
    /// They become those of overlayfs, so that the target can be a lower layer of
    /// [`Rootfs::overlay`](crate::rootfs::Rootfs::overlay): `.wh.NAME` a character device 0/0 called NAME (for which no
    /// privilege is needed), `.wh..wh..opq` the attributes `trusted.overlay.opaque` and `user.overlay.opaque` of its
    /// directory. One that the file system or the lack of `CAP_SYS_ADMIN` does not permit is left out and listed; where
    /// neither is permitted, that is an error. Nothing of the layer itself is hidden, wherever in the archive the
    /// whiteout stands: a directory that comes with a whiteout of its own name is made opaque. Other names with
    /// `.wh..wh.` are left out.
    Overlay,
}

/// What a failed or cancelled unpacking leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// Nothing: what was made is removed again, and the target too if it was made.
    #[default]
    Remove,
    /// What was made so far, for a look at it. The directories still have mode 0700, and none of their own owners
    /// and times.
    Keep,
}

/// How much an archive may ask for. What is beyond fails with [`Exhausted`](crate::ErrorKind::Exhausted).
///
/// ```
/// use stockade::rootfs::UnpackLimits;
///
/// let mut limits = UnpackLimits::default();
/// limits.bytes = 1 << 30;
/// assert_eq!(limits.depth, 512);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackLimits {
    /// Members, with the directories that members need and none names. 1,000,000 unless changed.
    pub members: u64,
    /// Bytes of the archive after decompression: the content of files, without holes, and 512 to some thousand for
    /// each member. 64 GiB unless changed.
    pub bytes: u64,
    /// How many times its size an archive may grow to by decompression, looked at after the first 64 MiB. 200
    /// unless changed; a Debian root grows to 3 to 5 times its size.
    pub ratio: u32,
    /// Parts of a path. 512 unless changed.
    pub depth: u32,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { members: 1_000_000, bytes: 64 << 30, ratio: 200, depth: 512 }
    }
}

/// How far an unpacking is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Members begun, with the directories that none names.
    pub members: u64,
    /// Bytes written into files.
    pub written: u64,
    /// Bytes of the archive that were read, as they are in the file; a little ahead of what was unpacked.
    pub taken: u64,
    /// The size of the archive in bytes, where it is known: the end of `taken`.
    pub total: Option<u64>,
}

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, RFC 1952; several members in a row too.
    Gzip,
    /// Zstandard, RFC 8878; several frames in a row too. Windows of up to 128 MiB.
    Zstd,
    /// xz; several streams in a row too. Up to 256 MiB of memory.
    Xz,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        })
    }
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// How the archive was compressed.
    pub compression: Compression,
    /// All members, without the directories that none names.
    pub members: u64,
    /// Regular files.
    pub files: u64,
    /// Directories, with those that no member names.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Character and block devices that were made.
    pub devices: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Whiteouts, with [`UnpackWhiteouts::Overlay`].
    pub whiteouts: u64,
    /// Directories below the target that hide what the layers below have in them, likewise.
    pub opaque: u64,
    /// The layer hides all layers below it, likewise: overlayfs has no mark for that, so leave those out.
    pub opaque_root: bool,
    /// Bytes written into files.
    pub written: u64,
    /// Size of the archive in bytes, as it was read.
    pub archive: u64,
    /// What the file system or the lack of a privilege kept from being made, the first
    /// [`MAX_SKIPPED`](Self::MAX_SKIPPED) of them.
    pub skipped: Vec<Skipped>,
    /// How much was skipped altogether.
    pub skipped_total: u64,
}

impl Unpacked {
    /// The longest list of skipped things; more are counted only.
    pub const MAX_SKIPPED: usize = 10_000;
}

/// Something of the archive that is not in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The member's path below the target.
    pub path: PathBuf,
    /// What was left out.
    pub what: SkippedPart,
    /// Why, where the kernel refused it (`errno(3)`).
    pub errno: Option<i32>,
}

/// A part of a member that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkippedPart {
    /// The whole member, a device node: with its owner on the host, where it has one, and its mode it can be made
    /// or bound later.
    Device {
        /// Character or block.
        kind: DeviceKind,
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
        /// Permission bits.
        mode: u32,
        /// The archive's user and group.
        owner: (u32, u32),
    },
    /// The whole member, a hard link to a device that was left out: the path of that below the target.
    LinkToDevice(PathBuf),
    /// An extended attribute, by its name. Those of overlayfs and of this library are always left out: they would
    /// make a file of the image pass for something else.
    Xattr(Vec<u8>),
    /// A POSIX ACL in the form of text (`SCHILY.acl.*`), by its key; those in the form of an attribute are kept.
    TextAcl(Vec<u8>),
}

/// Which sort of device a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DeviceKind {
    Character,
    Block,
}
