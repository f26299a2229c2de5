//! The large test root: Debian 12 by debootstrap, made once and kept as a tar file in the user's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixtures::{at, finish, is_made, lock, remove};
use crate::setup::Wanted;
use crate::{Result, paths, sh};

/// Raised when what the root holds changes in another way than by its packages: an older one is made anew, and its tar
/// file is left to be deleted.
const RECIPE: u32 = 2;
const SUITE: &str = "bookworm";
/// What the tests run, and what an image of a system container has: systemd boots it.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "dbus",
    "fuse2fs",
    "ifupdown",
    "iproute2",
    "iputils-ping",
    "less",
    "libcap2-bin",
    "libpam-systemd",
    "locales",
    "netbase",
    "procps",
    "python3-minimal",
    "sudo",
    "systemd",
    "systemd-sysv",
    "vim-tiny",
];
/// Seconds. On a good line it takes one minute.
const LIMIT: u32 = 900;
const TAR: &[&str] = &["--numeric-owner", "--xattrs", "--xattrs-include=*"];

/// Makes the Debian root, unless it stands: from the cached tar file, else by debootstrap.
pub fn prepare(wanted: Wanted) -> Result {
    let _lock = lock(&paths::fixtures())?;
    let recipe = format!("debian {SUITE} {RECIPE} {}", PACKAGES.join(","));
    if is_made("debian", &recipe) {
        return Ok(());
    }
    if !sh::is_root() {
        eprintln!("setup: no Debian root: making one needs root");
        return Ok(());
    }
    let cache = paths::cache();
    // Its name changes with the recipe, so that one of another recipe is never taken for it.
    let kept = cache.join(format!("debian-{SUITE}-{}-{:08x}.tar", std::env::consts::ARCH, mark(&recipe)));
    let tree = paths::fixtures().join(".debian");
    empty(&tree)?;

    let _cache_lock = lock(&cache)?;
    if kept.is_file() {
        match sh::run(Command::new("tar").args(TAR).arg("-C").arg(&tree).arg("-xpf").arg(&kept)) {
            Ok(()) => {
                finish("debian", &recipe, &tree)?;
                eprintln!("setup: unpacked the Debian root from {}", kept.display());
                return Ok(());
            }
            Err(why) => {
                eprintln!("setup: the kept Debian root is of no use, making a new one: {why}");
                empty(&tree)?;
            }
        }
    }
    if wanted == Wanted::WhatIsQuick {
        eprintln!("setup: no Debian root: run `cargo xtask setup` once");
        return remove(&tree);
    }
    if paths::program("debootstrap").is_none() {
        eprintln!("setup: no Debian root: debootstrap is not installed");
        return remove(&tree);
    }
    if let Err(why) = bootstrap(&tree) {
        eprintln!("setup: no Debian root: {why}");
        return remove(&tree);
    }
    clean(&tree)?;
    // Kept under its name only when it is whole.
    let part = kept.with_extension("tar.part");
    sh::run(Command::new("tar").args(TAR).arg("-C").arg(&tree).arg("-cf").arg(&part).arg("."))?;
    at(&kept, fs::rename(&part, &kept))?;
    finish("debian", &recipe, &tree)?;
    eprintln!("setup: made the Debian root, kept as {}", kept.display());
    Ok(())
}

/// A number for a text, the same on every machine: FNV-1a.
fn mark(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |mark, byte| (mark ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Fills `tree`: from the machine's own mirror, else from debootstrap's.
fn bootstrap(tree: &Path) -> Result {
    let own = own_mirror();
    eprintln!("setup: making the Debian root from {}", own.as_deref().unwrap_or("the default mirror"));
    match (debootstrap(tree, own.as_deref()), own) {
        (Err(why), Some(_)) => {
            eprintln!("setup: {why}; trying the default mirror");
            empty(tree)?;
            debootstrap(tree, None)
        }
        (done, _) => done,
    }
}

fn debootstrap(tree: &Path, mirror: Option<&str>) -> Result {
    let log = paths::fixtures().join("debootstrap.log");
    let file = at(&log, fs::File::create(&log))?;
    let errors = at(&log, file.try_clone())?;
    // Its mounts end with the private mount namespace, however it ends.
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=10", &LIMIT.to_string()])
        .args(["unshare", "--mount", "--propagation", "private", "debootstrap"])
        .args(["--variant=minbase", &format!("--include={}", PACKAGES.join(",")), SUITE])
        .arg(tree)
        .args(mirror)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdout(file)
        .stderr(errors);
    if let Some(proxy) = apt_proxy() {
        command.env("http_proxy", proxy);
    }
    sh::run(&mut command).map_err(|why| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("{why}\n{}", tail.join("\n"))
    })
}

/// Takes out what comes from the build host and what no test needs.
fn clean(tree: &Path) -> Result {
    // systemd takes both as they are: the name over the one we give, the id for every copy of the root.
    for emptied in ["etc/hostname", "etc/machine-id"] {
        let path = tree.join(emptied);
        at(&path, fs::write(&path, ""))?;
    }
    for removed in ["var/lib/dbus/machine-id", "etc/resolv.conf"] {
        let path = tree.join(removed);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {e}", path.display()));
            }
            _ => {}
        }
    }
    // Device nodes are the runtime's to give; package files and lists are two thirds of the size.
    for emptied in ["dev", "var/cache/apt", "var/lib/apt/lists", "var/log"] {
        empty(&tree.join(emptied))?;
    }
    Ok(())
}

/// Makes `dir` an empty directory.
fn empty(dir: &Path) -> Result {
    remove(dir)?;
    at(dir, fs::create_dir_all(dir))
}

/// The proxy that apt is told to use, if any: debootstrap asks the environment instead.
fn apt_proxy() -> Option<String> {
    let shell = sh::output(Command::new("apt-config").args(["shell", "P", "Acquire::http::Proxy"])).ok()?;
    let value = shell.trim().strip_prefix("P='")?.strip_suffix('\'')?;
    (value.starts_with("http") && std::env::var_os("http_proxy").is_none()).then(|| value.to_owned())
}

/// The first mirror of the suite among the machine's package sources, sources.list(5).
fn own_mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut more: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        more.sort();
        files.extend(more);
    }
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => text.lines().find_map(list_line),
            "sources" => text.split("\n\n").find_map(stanza),
            _ => None,
        }
    })
}

/// What debootstrap can fetch from.
fn usable(uri: &str) -> Option<String> {
    let known = ["http://", "https://", "file:/"].iter().any(|scheme| uri.starts_with(scheme));
    known.then(|| uri.trim_end_matches('/').to_owned())
}

/// The mirror in a line such as `deb [options] URI bookworm main`.
fn list_line(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    if suite == SUITE && words.any(|component| component == "main") { usable(uri) } else { None }
}

/// The mirror in one paragraph of a `.sources` file.
fn stanza(text: &str) -> Option<String> {
    let field = |name: &str| {
        let line = text.lines().filter(|l| !l.starts_with('#')).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })?;
        Some(line.split_whitespace().collect::<Vec<_>>())
    };
    let enabled = field("Enabled").is_none_or(|v| v != ["no"]);
    let fits = field("Types")?.contains(&"deb")
        && field("Suites")?.contains(&SUITE)
        && field("Components")?.contains(&"main");
    if enabled && fits { field("URIs")?.into_iter().find_map(usable) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_fnv() {
        assert_eq!(mark(""), 0x811c_9dc5);
        assert_eq!(mark("a"), 0xe40c_292c);
        assert_eq!(mark("foobar"), 0xbf9c_f968);
    }

    #[test]
    fn mirrors_are_found_in_both_formats() {
        let mirror = Some("http://mirror.example/debian".to_owned());
        assert_eq!(list_line("deb http://mirror.example/debian/ bookworm main"), mirror);
        assert_eq!(
            list_line("deb [arch=amd64 x=y] http://mirror.example/debian bookworm contrib main"),
            mirror
        );
        assert_eq!(list_line("deb http://mirror.example/debian bookworm-security main"), None);
        assert_eq!(list_line("# deb http://mirror.example/debian bookworm main"), None);
        assert_eq!(list_line("deb cdrom:[Debian] bookworm main"), None);

        let good = "# x: y\nTypes: deb deb-src\nURIs: mirror+file:/x http://mirror.example/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main";
        assert_eq!(stanza(good), mirror);
        assert_eq!(stanza(&good.replace("bookworm ", "trixie ")), None);
        assert_eq!(stanza(&format!("{good}\nEnabled: no")), None);
        assert_eq!(stanza(""), None);
    }
}
