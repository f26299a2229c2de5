//! The operations of a plan that believe no path: procfs and sysfs, masks, devices; and what confines the program.

use rustix::fs::ResolveFlags;

use super::builder::{MaskFrom, Tolerate};
use super::interp::abi::code;
use super::plan::{At, Plan};

/// The number of the null device, 1:3.
const NULL_DEVICE: u64 = libc::makedev(1, 3);

/// A file system of the kernel's, at its usual place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelFs {
    Proc,
    Sys,
}

impl KernelFs {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Proc => "/proc",
            Self::Sys => "/sys",
        }
    }

    fn magic(self) -> u64 {
        match self {
            Self::Proc => libc::PROC_SUPER_MAGIC as u64,
            Self::Sys => libc::SYSFS_MAGIC as u64,
        }
    }
}

impl Plan {
    /// Hides the file or directory at `path`.
    pub(crate) fn mask_path(&mut self, path: impl AsRef<[u8]>, from: MaskFrom) {
        self.mask_path_in(path, "", from);
    }

    /// As [`mask_path`](Self::mask_path), with `path` looked up from the working directory, which is `dir`.
    pub(crate) fn mask_path_in(&mut self, path: impl AsRef<[u8]>, dir: &str, from: MaskFrom) {
        let (shown, at) = self.text_below(path, dir);
        let source = match from {
            MaskFrom::DevNull => self.text("/dev/null"),
            MaskFrom::Nothing => At::default(),
        };
        self.on("mask path", shown, code::MASK, [at.into(), source.into(), NULL_DEVICE, 0, 0]);
        self.tolerate(Tolerate::Missing);
    }

    /// The whole path, and what of it is below `dir`.
    pub(super) fn text_below(&mut self, path: impl AsRef<[u8]>, dir: &str) -> (At, At) {
        let below = path.as_ref().strip_prefix(dir.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let skipped = below.filter(|_| !dir.is_empty()).map_or(0, |below| path.as_ref().len() - below.len());
        let shown = self.text(path);
        (shown, At(shown.0 + skipped as u32))
    }

    /// Goes to the top directory of procfs or sysfs, and makes sure that it is that.
    pub(crate) fn enter_kernel(&mut self, fs: KernelFs) {
        let at = self.text(fs.path());
        let what = "enter a directory of the kernel";
        self.on(what, at, code::ENTER_KERNEL, [at.into(), fs.magic(), 0, 0, 0]);
    }

    /// Makes sure that a device is what it is taken for.
    pub(crate) fn check_device(&mut self, path: &str, device: u64) {
        let at = self.text(path);
        self.on("check a device", at, code::CHECK_DEVICE, [at.into(), device, 0, 0, 0]);
    }

    /// Gives the process a session keyring of its own.
    pub(crate) fn keyring(&mut self) {
        self.none("make a session keyring", code::KEYRING, [0; 5]);
    }

    /// Writes to a file of procfs, where the working directory is [`KernelFs::Proc`]: to that file, and not to what
    /// somebody has mounted over it.
    pub(crate) fn write_proc(&mut self, what: &'static str, path: &str, data: &[u8]) {
        let (shown, at) = self.text_below(path, KernelFs::Proc.path());
        let bytes = self.bytes(data);
        let resolve = (ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS).bits();
        self.on(what, shown, code::WRITE_FILE, [at.into(), bytes.into(), data.len() as u64, resolve, 0]);
    }

    /// Confines the process by Landlock to these rights below these paths, of all that are `handled`.
    pub(crate) fn landlock(&mut self, handled: u64, rules: &[(&[u8], u64)]) {
        let words: Vec<u64> =
            rules.iter().flat_map(|(path, access)| [u64::from(self.text(path).0), *access]).collect();
        let at = self.words(&words);
        self.none("set the Landlock rules", code::LANDLOCK, [handled, at.into(), rules.len() as u64, 0, 0]);
    }
}
