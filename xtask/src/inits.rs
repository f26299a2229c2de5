//! The inits that Debian has beside systemd: for each a layer over the Debian root, of the init's packages alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::fixtures::{at, finish, is_made, lock, remove, static_busybox};
use crate::setup::Wanted;
use crate::vm::apt;
use crate::{Result, paths, sh};

/// Raised when a layer changes in another way than by its packages.
const RECIPE: u32 = 2;
const SYSV: &[&str] = &["sysvinit-core", "initscripts", "sysv-rc"];
const OPENRC: &[&str] = &["openrc", "librc1", "libeinfo1", "sysvinit-core", "initscripts"];
const RUNIT: &[&str] = &["runit", "runit-init", "runit-helper", "initscripts"];
const S6: &[&str] = &["s6", "execline", "libs6-2.11", "libexecline2.9", "libskarnet2.13"];

/// Name of the layer, packages, what is done to it.
type Layer = (&'static str, &'static [&'static str], fn(&Path) -> Result);
const LAYERS: &[Layer] =
    &[("sysvinit", SYSV, sysv), ("openrc", OPENRC, openrc), ("runit", RUNIT, runit), ("s6", S6, s6)];

/// Makes the layers, unless they stand: from the kept tar file, else from Debian's packages.
pub fn prepare(wanted: Wanted) -> Result {
    let _lock = lock(&paths::fixtures())?;
    let recipe = format!("inits {RECIPE} {:?}", LAYERS.iter().map(|l| l.1).collect::<Vec<_>>());
    if is_made("inits", &recipe) {
        return Ok(());
    }
    if !sh::is_root() {
        eprintln!("setup: no inits: making their roots needs root");
        return Ok(());
    }
    let cache = paths::cache();
    let kept = cache.join(format!("inits-{}-{RECIPE}.tar", std::env::consts::ARCH));
    let tree = paths::fixtures().join(".inits");
    remove(&tree)?;
    at(&tree, fs::create_dir_all(&tree))?;
    let _cache_lock = lock(&cache)?;
    if kept.is_file() && sh::run(Command::new("tar").arg("-C").arg(&tree).arg("-xpf").arg(&kept)).is_ok() {
        return finish("inits", &recipe, &tree);
    }
    if wanted == Wanted::WhatIsQuick {
        eprintln!("setup: no inits: run `cargo xtask setup` once");
        return remove(&tree);
    }
    for (name, packages, set_up) in LAYERS {
        let root = tree.join(name);
        at(&root, fs::create_dir_all(&root))?;
        let made = packages.iter().try_for_each(|package| apt::unpack(package, &root));
        if let Err(why) = made.and_then(|()| merge_usr(&root)).and_then(|()| set_up(&root)) {
            eprintln!("setup: no inits: {name}: {why}");
            return remove(&tree);
        }
    }
    let part = kept.with_extension("tar.part");
    sh::run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&part).arg("."))?;
    at(&kept, fs::rename(&part, &kept))?;
    finish("inits", &recipe, &tree)?;
    eprintln!("setup: made the inits, kept as {}", kept.display());
    Ok(())
}

/// In the Debian root /bin, /sbin and /lib are links into /usr, which a directory in a layer would hide.
fn merge_usr(root: &Path) -> Result {
    for dir in ["bin", "sbin", "lib"] {
        let from = root.join(dir);
        if !from.is_dir() {
            continue;
        }
        let to = root.join("usr").join(dir);
        at(&to, fs::create_dir_all(&to))?;
        sh::run(Command::new("cp").arg("-a").arg(from.join(".")).arg(&to))?;
        remove(&from)?;
    }
    // Documentation is of no use in a test.
    remove(&root.join("usr/share/doc"))?;
    remove(&root.join("usr/share/man"))
}

fn write(root: &Path, path: &str, text: &str) -> Result {
    let path = root.join(path);
    if let Some(dir) = path.parent() {
        at(dir, fs::create_dir_all(dir))?;
    }
    at(&path, fs::write(&path, text))?;
    at(&path, fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
}

fn link(root: &Path, to: &str, path: &str) -> Result {
    let path = root.join(path);
    if let Some(dir) = path.parent() {
        at(dir, fs::create_dir_all(dir))?;
    }
    at(&path, symlink(to, &path))
}

/// What the package's own script would have made of its template, without terminals.
fn inittab(root: &Path) -> Result {
    let template = root.join("usr/share/sysvinit/inittab");
    let text = at(&template, fs::read_to_string(&template))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("getty")).collect();
    write(root, "etc/inittab", &(lines.join("\n") + "\n"))
}

fn sysv(root: &Path) -> Result {
    inittab(root)?;
    link(root, "../init.d/halt", "etc/rc0.d/K10halt")?;
    link(root, "../init.d/reboot", "etc/rc6.d/K10reboot")
}

fn openrc(root: &Path) -> Result {
    inittab(root)
}

fn runit(root: &Path) -> Result {
    link(root, "default", "etc/runit/runsvdir/current")
}

/// Debian has no s6-linux-init, so the scripts are ours.
fn s6(root: &Path) -> Result {
    let Some(busybox) = static_busybox() else { return Err("no static busybox".to_owned()) };
    let inside = root.join("usr/bin/busybox-static");
    at(&inside, fs::copy(busybox, &inside).map(drop))?;
    let script = |text: &str| format!("#!/bin/sh\n{text}\n");
    write(root, "service/.s6-svscan/SIGTERM", &script("exec s6-svscanctl -t /service"))?;
    write(root, "service/.s6-svscan/SIGINT", &script("touch /run/reboot; exec s6-svscanctl -t /service"))?;
    let end = "test -e /run/reboot && rm /run/reboot && exec busybox-static reboot -f; exec busybox-static poweroff -f";
    write(root, "service/.s6-svscan/finish", &script(end))
}
