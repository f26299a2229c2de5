//! What every container finds below its root: the lists of the OCI runtime specification ("config-linux", default
//! file systems and devices).

use rustix::mount::MountFlags;

/// A device node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) path: &'static str,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

const fn device(path: &'static str, major: u32, minor: u32) -> Device {
    Device { path, major, minor }
}

/// The character devices of /dev.
pub(crate) const DEVICES: [Device; 6] = [
    device("/dev/null", 1, 3),
    device("/dev/zero", 1, 5),
    device("/dev/full", 1, 7),
    device("/dev/random", 1, 8),
    device("/dev/urandom", 1, 9),
    device("/dev/tty", 5, 0),
];

/// Links in /dev: target, path.
pub(crate) const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Directories in /dev that something is mounted on.
pub(crate) const DIRS: [&str; 3] = ["/dev/pts", "/dev/shm", "/dev/mqueue"];

/// Mode of a device node, with its type.
pub(crate) const DEVICE_MODE: u32 = 0o020_666;

pub(crate) const DEV_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::STRICTATIME);
pub(crate) const DEV_DATA: &str = "mode=755,size=65536k";
pub(crate) const PTS_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
/// 5 is the group `tty`.
pub(crate) const PTS_DATA_GROUP: &str = "newinstance,ptmxmode=0666,mode=0620,gid=5";
/// Where group 5 has no place in the id map.
pub(crate) const PTS_DATA: &str = "newinstance,ptmxmode=0666,mode=0620";
pub(crate) const SHM_DATA: &str = "mode=1777,size=65536k";
/// For file systems that hold neither programs nor devices.
pub(crate) const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
