//! What both examples with a guest need: a kernel with its modules, and a root.

use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Where things are: from the command line, or where `cargo xtask` and Debian put them.
pub(crate) struct Files {
    /// A vmlinux or a bzImage.
    pub(crate) kernel: PathBuf,
    /// The directory of its modules.
    pub(crate) modules: PathBuf,
    /// A directory with a root file system.
    pub(crate) root: PathBuf,
}

impl Files {
    /// `[KERNEL MODULES ROOT]`.
    pub(crate) fn from_args() -> Result<Self> {
        let args: Vec<PathBuf> = std::env::args_os().skip(1).map(Into::into).collect();
        match &args[..] {
            [kernel, modules, root] => {
                Ok(Self { kernel: kernel.clone(), modules: modules.clone(), root: root.clone() })
            }
            [] => Self::usual(),
            _ => Err("usage: [KERNEL MODULES ROOT]".into()),
        }
    }

    fn usual() -> Result<Self> {
        let root = PathBuf::from("target/fixtures/busybox");
        if !root.is_dir() {
            return Err(
                "no root file system here: run `cargo xtask setup`, or name KERNEL MODULES ROOT".into()
            );
        }
        let cache = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/stockade/vm"));
        let dirs = cache.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        let mut found: Vec<(PathBuf, PathBuf)> = dirs.filter_map(|dir| unpacked(&dir.path())).collect();
        found.sort();
        if let Some((kernel, modules)) = found.pop() {
            return Ok(Self { kernel, modules, root });
        }
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let release = release.trim();
        let kernel = PathBuf::from(format!("/boot/vmlinuz-{release}"));
        match kernel.is_file() {
            true => Ok(Self { kernel, modules: format!("/lib/modules/{release}").into(), root }),
            false => Err("no kernel here: run `cargo xtask vm -- true`, or name KERNEL MODULES ROOT".into()),
        }
    }
}

/// A kernel's package as `cargo xtask vm` unpacks it.
fn unpacked(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let kernel = dir.join("kernel");
    let modules = ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .find_map(|place| Some(std::fs::read_dir(dir.join(place)).ok()?.flatten().next()?.path()))?;
    kernel.is_file().then_some((kernel, modules))
}
