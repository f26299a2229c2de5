//! The small test root: one static busybox and a link for each of its applets.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, paths, sh};

/// Raised when what a fixture holds changes: an older one is made anew.
const BUSYBOX_RECIPE: &str = "busybox 1";

/// Names the path in the error.
pub fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|e| format!("{}: {e}", path.display()))
}

/// Holds others off while a fixture is made: two test runs may start at once.
pub fn lock(dir: &Path) -> Result<File> {
    at(dir, fs::create_dir_all(dir))?;
    let path = dir.join(".lock");
    let file = at(&path, File::create(&path))?;
    at(&path, file.lock())?;
    Ok(file)
}

/// Whether the fixture was made by this recipe. The stamp is written last.
pub fn is_made(name: &str, recipe: &str) -> bool {
    let stamp = paths::fixtures().join(format!("{name}.stamp"));
    fs::read_to_string(stamp).is_ok_and(|made| made == recipe) && paths::fixtures().join(name).is_dir()
}

/// Puts a finished tree in its place and stamps it.
pub fn finish(name: &str, recipe: &str, made: &Path) -> Result {
    let place = paths::fixtures().join(name);
    remove(&place)?;
    at(&place, fs::rename(made, &place))?;
    let stamp = paths::fixtures().join(format!("{name}.stamp"));
    at(&stamp, fs::write(&stamp, recipe))
}

/// Removes a fixture's tree, which must not be a mount point any more.
pub fn remove(tree: &Path) -> Result {
    match fs::remove_dir_all(tree) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", tree.display())),
        _ => Ok(()),
    }
}

/// The busybox on this machine, if it is linked statically.
pub fn static_busybox() -> Option<PathBuf> {
    let path = paths::program("busybox")?;
    let bytes = fs::read(&path).ok()?;
    (!needs_interpreter(&bytes)?).then_some(path)
}

/// Whether a 64-bit little-endian ELF file asks for a dynamic linker, elf(5); `None` when it is no such file.
fn needs_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let u64_at = |at: usize| usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (headers, size, count) = (u64_at(32)?, u16_at(54)?, u16_at(56)?);
    for i in 0..count {
        let header = headers.checked_add(size * i)?;
        if elf.get(header..header.checked_add(4)?)? == PT_INTERP.to_le_bytes() {
            return Some(true);
        }
    }
    Some(false)
}

/// Makes the busybox root, unless it stands.
pub fn busybox() -> Result {
    let _lock = lock(&paths::fixtures())?;
    if is_made("busybox", BUSYBOX_RECIPE) {
        return Ok(());
    }
    let Some(binary) = static_busybox() else {
        eprintln!("setup: no busybox root: no static busybox here (Debian package busybox-static)");
        return Ok(());
    };
    let tree = paths::fixtures().join(".busybox");
    remove(&tree)?;
    let dirs = "bin dev etc home mnt opt proc root run srv sys tmp usr var var/log var/tmp";
    for dir in dirs.split(' ') {
        let dir = tree.join(dir);
        at(&dir, fs::create_dir_all(&dir))?;
    }
    for (dir, mode) in [("", 0o755), ("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)] {
        let dir = tree.join(dir);
        at(&dir, fs::set_permissions(&dir, fs::Permissions::from_mode(mode)))?;
    }
    for (link, to) in [("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin"), ("var/run", "../run")]
    {
        let link = tree.join(link);
        at(&link, symlink(to, &link))?;
    }
    let inside = tree.join("bin/busybox");
    at(&inside, fs::copy(&binary, &inside).map(drop))?;
    at(&inside, fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)))?;
    for applet in sh::output(Command::new(&binary).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        let link = tree.join("bin").join(applet);
        at(&link, symlink("busybox", &link))?;
    }
    for (file, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("etc/os-release", "ID=busybox\nPRETTY_NAME=\"Stockade test root\"\n"),
    ] {
        let file = tree.join(file);
        at(&file, fs::write(&file, text))?;
    }
    finish("busybox", BUSYBOX_RECIPE, &tree)?;
    eprintln!("setup: made the busybox root");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of one program header of this type.
    fn elf(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn dynamic_and_static_programs_are_told_apart() {
        assert_eq!(needs_interpreter(&elf(3)), Some(true));
        assert_eq!(needs_interpreter(&elf(1)), Some(false));
        assert_eq!(needs_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(needs_interpreter(&elf(3)[..70]), Some(true));
        assert_eq!(needs_interpreter(&elf(1)[..66]), None);
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(needs_interpreter(&own), Some(true));
    }
}
