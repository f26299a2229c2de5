//! The programs that make and run the machine: the installed ones, or those of Debian's packages, in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, fixtures, paths, sh};

use super::{apt, cache};

const QEMU: &str = "qemu-system-x86_64";

/// Loads profiles into the machine's kernel.
pub const APPARMOR_PARSER: &str = "apparmor_parser";

/// A program and its package.
const NEEDED: &[(&str, &str)] = &[
    (QEMU, "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("zstd", "zstd"),
    ("mke2fs", "e2fsprogs"),
    (APPARMOR_PARSER, "apparmor"),
];

/// Where the programs are.
#[derive(Debug)]
pub struct Tools {
    /// What was unpacked, if anything had to be.
    root: Option<PathBuf>,
}

/// Finds the programs, or fetches what is missing.
pub fn find() -> Result<Tools> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(name, _)| installed(name).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(Tools { root: None });
    }
    // The set belongs to the name: another machine with the same cache may lack other programs.
    let name = format!("tools-{}", missing.join("-"));
    let root = cache::made(&name, apt::field(missing[0], "Version"), |root| {
        eprintln!("vm: fetching {}", missing.join(" "));
        apt::unpack_with_dependencies(&missing, root)?;
        let tools = Tools { root: Some(root.to_owned()) };
        // A library that is missing shows now.
        NEEDED.iter().try_for_each(|(name, _)| tools.command(name).map(drop))?;
        sh::output(tools.command(QEMU)?.arg("--version")).map(drop)
    })?;
    Ok(Tools { root: Some(root) })
}

fn installed(name: &str) -> Option<PathBuf> {
    // The dynamic busybox has the same name and is of no use in an initramfs.
    if name == "busybox" { fixtures::static_busybox() } else { paths::program(name) }
}

impl Tools {
    /// Where what was unpacked is, if anything had to be.
    pub fn unpacked(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The program's path.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let unpacked = |root: &PathBuf| {
            let dirs = ["usr/bin", "bin", "usr/sbin", "sbin"];
            dirs.iter().map(|dir| root.join(dir).join(name)).find(|path| path.is_file())
        };
        installed(name)
            .or_else(|| self.root.as_ref().and_then(unpacked))
            .ok_or_else(|| format!("{name} is not installed, and not in {:?}", self.root))
    }

    /// The program, with its libraries.
    pub fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.path(name)?);
        self.libraries(&mut command);
        Ok(command)
    }

    /// QEMU, which ends with us, and where its files are.
    pub fn qemu(&self) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.path(QEMU)?);
        self.libraries(&mut command);
        if let Some(root) = &self.root {
            command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
            for dir in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(root.join(dir));
            }
        }
        Ok(command)
    }

    fn libraries(&self, command: &mut Command) {
        let Some(root) = &self.root else { return };
        let dirs = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|dir| root.join(dir));
        let dirs: Vec<_> = dirs.iter().map(|dir: &PathBuf| -> &Path { dir }).collect();
        if let Ok(joined) = std::env::join_paths(dirs) {
            command.env("LD_LIBRARY_PATH", joined);
        }
    }
}
